//! The pickle in a state dict: a machine of the binary opcodes, protocols 2 to 5, that `torch.save` writes.
//!
//! Nothing is ever called: an object of a class is kept as the name of what would make it and its arguments, and what no
//! weight is made of (floats, lists, bytes, ...) is not kept at all. Objects lie in one list and name each other by their
//! place in it, texts are slices of the pickle: memory is bounded by the pickle's length however often an object is
//! named, no length is believed before it is held against the bytes that are left, and nothing recurs.

use std::collections::HashMap;

use super::{Result, StateDictError};

/// Bytes of a pickle at most. Each may become an object; the weights themselves are elsewhere.
const LONGEST: usize = 16 << 20;
const NEWEST_PROTOCOL: u8 = 5;

/// An object's place.
pub(super) type Ref = u32;

/// The one object that stands for all that is not kept.
const NOTHING: Ref = 0;

/// A value as far as weights are made of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Object<'a> {
    /// What no weight is made of.
    Nothing,
    Int(i64),
    Text(&'a str),
    Tuple(Box<[Ref]>),
    /// An `OrderedDict` too; pairs in the order of setting.
    Dict(Vec<(Ref, Ref)>),
    /// A class or a function.
    Global(Global<'a>),
    /// What would be made by calling the first with the second.
    Call(Ref, Ref),
    /// A storage, by torch's tuple that says which.
    Storage(Ref),
}

/// Something of a Python module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Global<'a> {
    pub module: Ref,
    pub name: &'a str,
}

/// Every object of a pickle.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    objects: Vec<Object<'a>>,
    root: Ref,
}

impl<'a> Pickle<'a> {
    /// Reads a pickle up to its stop.
    pub fn read(bytes: &'a [u8]) -> Result<Self> {
        if bytes.len() > LONGEST {
            let expected = format!(
                "at most {LONGEST} bytes, as a state dict saved alone has (`torch.save(model.state_dict(), FILE)`)"
            );
            return Err(StateDictError::Pickle { at: 0, expected, found: bytes.len().to_string() });
        }
        let mut machine = Machine::new(bytes);
        let root = machine.run()?;
        Ok(Self { objects: machine.objects, root })
    }

    pub fn root(&self) -> Ref {
        self.root
    }

    pub fn get(&self, object: Ref) -> &Object<'a> {
        &self.objects[object as usize]
    }

    pub fn text(&self, object: Ref) -> Option<&'a str> {
        if let Object::Text(text) = self.get(object) { Some(text) } else { None }
    }

    pub fn int(&self, object: Ref) -> Option<i64> {
        if let Object::Int(value) = self.get(object) { Some(*value) } else { None }
    }

    pub fn tuple(&self, object: Ref) -> Option<&[Ref]> {
        if let Object::Tuple(items) = self.get(object) { Some(items) } else { None }
    }

    pub fn dict(&self, object: Ref) -> Option<&[(Ref, Ref)]> {
        if let Object::Dict(pairs) = self.get(object) { Some(pairs) } else { None }
    }

    /// Module and name.
    pub fn global(&self, object: Ref) -> Option<(&'a str, &'a str)> {
        let Object::Global(Global { module, name }) = *self.get(object) else { return None };
        Some((self.text(module)?, name))
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    objects: Vec<Object<'a>>,
    stack: Vec<Ref>,
    /// Lengths of the stack where marks are.
    marks: Vec<usize>,
    memo: HashMap<u32, Ref>,
}

impl<'a> Machine<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let (stack, marks, memo) = (Vec::new(), Vec::new(), HashMap::new());
        Self { bytes, at: 0, objects: vec![Object::Nothing], stack, marks, memo }
    }

    fn run(&mut self) -> Result<Ref> {
        loop {
            let [opcode] = self.array()?;
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode)?;
        }
    }

    /// Opcodes by Python's names for them; every one that a protocol from 2 on writes.
    fn step(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            0x80 => self.protocol(),                                                   // PROTO
            0x95 => self.array::<8>().map(drop),                                       // FRAME
            b'(' => self.mark(),                                                       // MARK
            b'0' => self.drop_last(),                                                  // POP
            b'1' => self.pop_to_mark().map(drop),                                      // POP_MARK
            b'2' => self.last().map(|object| self.stack.push(object)),                 // DUP
            b'q' => self.array().map(|[at]| at.into()).and_then(|at| self.put(at)),    // BINPUT
            b'r' => self.u32().and_then(|at| self.put(at)),                            // LONG_BINPUT
            0x94 => self.put(self.memo.len() as u32),                                  // MEMOIZE
            b'h' => self.array().map(|[at]| at.into()).and_then(|at| self.recall(at)), // BINGET
            b'j' => self.u32().and_then(|at| self.recall(at)),                         // LONG_BINGET
            b'K' => self.array().map(|[value]| self.push(Object::Int(value.into()))),  // BININT1
            b'M' => self.array().map(|value| self.push(Object::Int(u16::from_le_bytes(value).into()))), // BININT2
            b'J' => self.array().map(|value| self.push(Object::Int(i32::from_le_bytes(value).into()))), // BININT
            0x8a => self.length::<1>().and_then(|length| self.long(length)), // LONG1
            0x8b => self.length::<4>().and_then(|length| self.long(length)), // LONG4
            b'X' => self.length::<4>().and_then(|length| self.push_text(length)), // BINUNICODE
            0x8c => self.length::<1>().and_then(|length| self.push_text(length)), // SHORT_BINUNICODE
            0x8d => self.length::<8>().and_then(|length| self.push_text(length)), // BINUNICODE8
            b'U' | b'C' => self.length::<1>().and_then(|length| self.pass(length)), // SHORT_BINSTRING, SHORT_BINBYTES
            b'T' | b'B' => self.length::<4>().and_then(|length| self.pass(length)), // BINSTRING, BINBYTES
            0x8e | 0x96 => self.length::<8>().and_then(|length| self.pass(length)), // BINBYTES8, BYTEARRAY8
            b'G' => self.pass(8),                                                   // BINFLOAT
            b'N' | 0x88 | 0x89 | b']' | 0x8f => self.pass(0), // NONE, NEWTRUE, NEWFALSE, EMPTY_LIST, EMPTY_SET
            b'a' => self.drop_last(),                         // APPEND: lists are not kept
            b'e' | 0x90 => self.pop_to_mark().map(drop),      // APPENDS, ADDITEMS
            b'l' | 0x91 => self.pop_to_mark().and_then(|_| self.pass(0)), // LIST, FROZENSET
            b')' => self.push_tuple(0),                       // EMPTY_TUPLE
            0x85..=0x87 => self.push_tuple(usize::from(opcode - 0x84)), // TUPLE1, TUPLE2, TUPLE3
            b't' => self.pop_to_mark().map(|items| self.push(Object::Tuple(items.into()))), // TUPLE
            b'}' => self.push_ok(Object::Dict(Vec::new())),   // EMPTY_DICT
            b'd' => self.dict(),                              // DICT
            b's' => self.set_item(),                          // SETITEM
            b'u' => self.set_items(),                         // SETITEMS
            b'c' => self.global(),                            // GLOBAL
            0x93 => self.stack_global(),                      // STACK_GLOBAL
            b'R' | 0x81 => self.call(),                       // REDUCE, NEWOBJ
            0x92 => self.drop_last().and_then(|()| self.call()), // NEWOBJ_EX: its names are of no use
            b'b' => self.drop_last(),                         // BUILD: an object's state makes no weight
            b'Q' => self.pop().map(|which| self.push(Object::Storage(which))), // BINPERSID
            _ => {
                self.at -= 1;
                self.wrong("an opcode that torch.save writes", format!("{opcode:#04x}"))
            }
        }
    }

    fn wrong<T>(&self, expected: impl Into<String>, found: impl Into<String>) -> Result<T> {
        Err(StateDictError::Pickle { at: self.at, expected: expected.into(), found: found.into() })
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let left = &self.bytes[self.at..];
        let Some(taken) = left.get(..length) else {
            return self.wrong(format!("{length} more bytes"), left.len().to_string());
        };
        self.at += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// A length in `N` bytes.
    fn length<const N: usize>(&mut self) -> Result<usize> {
        let mut wide = [0; 8];
        wide[..N].copy_from_slice(self.take(N)?);
        // One that this machine has no room for is more than is left, too.
        Ok(usize::try_from(u64::from_le_bytes(wide)).unwrap_or(usize::MAX))
    }

    fn protocol(&mut self) -> Result<()> {
        match self.array()? {
            [2..=NEWEST_PROTOCOL] => Ok(()),
            [other] => self.wrong(format!("pickle protocol 2 to {NEWEST_PROTOCOL}"), other.to_string()),
        }
    }

    fn new_object(&mut self, object: Object<'a>) -> Ref {
        self.objects.push(object);
        (self.objects.len() - 1) as Ref // fewer than LONGEST
    }

    fn push(&mut self, object: Object<'a>) {
        let place = self.new_object(object);
        self.stack.push(place);
    }

    fn push_ok(&mut self, object: Object<'a>) -> Result<()> {
        self.push(object);
        Ok(())
    }

    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn last(&self) -> Result<Ref> {
        match self.stack[self.floor()..].last() {
            Some(&object) => Ok(object),
            None => self.wrong("an object on the stack", "none"),
        }
    }

    fn pop(&mut self) -> Result<Ref> {
        let object = self.last()?;
        self.stack.pop();
        Ok(object)
    }

    fn drop_last(&mut self) -> Result<()> {
        self.pop().map(drop)
    }

    fn mark(&mut self) -> Result<()> {
        self.marks.push(self.stack.len());
        Ok(())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Ref>> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.drain(mark..).collect()),
            None => self.wrong("a mark on the stack", "none"),
        }
    }

    fn put(&mut self, at: u32) -> Result<()> {
        let object = self.last()?;
        self.memo.insert(at, object);
        Ok(())
    }

    fn recall(&mut self, at: u32) -> Result<()> {
        match self.memo.get(&at) {
            Some(&object) => {
                self.stack.push(object);
                Ok(())
            }
            None => self.wrong("an object that was put by", format!("none under {at}")),
        }
    }

    /// A whole number; one beyond 64 bits is no length of anything.
    fn long(&mut self, length: usize) -> Result<()> {
        let bytes = self.take(length)?;
        if length > 8 {
            return self.pass(0);
        }
        let sign = bytes.last().is_some_and(|&byte| byte & 0x80 != 0);
        let mut wide = [if sign { 0xff } else { 0 }; 8];
        wide[..length].copy_from_slice(bytes);
        self.push_ok(Object::Int(i64::from_le_bytes(wide)))
    }

    fn push_text(&mut self, length: usize) -> Result<()> {
        let text = self.take(length)?;
        let text = self.utf8(text)?;
        self.push_ok(Object::Text(text))
    }

    fn utf8(&self, bytes: &'a [u8]) -> Result<&'a str> {
        // Python's lone surrogates are no UTF-8, and in no name of a weight.
        std::str::from_utf8(bytes).or_else(|error| self.wrong("text in UTF-8", error.to_string()))
    }

    /// An object of so many bytes that is not kept.
    fn pass(&mut self, length: usize) -> Result<()> {
        self.take(length)?;
        self.stack.push(NOTHING);
        Ok(())
    }

    fn push_tuple(&mut self, length: usize) -> Result<()> {
        let mut items = vec![NOTHING; length];
        for item in items.iter_mut().rev() {
            *item = self.pop()?;
        }
        self.push_ok(Object::Tuple(items.into()))
    }

    fn dict(&mut self) -> Result<()> {
        let items = self.pop_to_mark()?;
        self.push(Object::Dict(Vec::new()));
        self.set(items)
    }

    fn set_item(&mut self) -> Result<()> {
        let value = self.pop()?;
        let key = self.pop()?;
        self.set(vec![key, value])
    }

    fn set_items(&mut self) -> Result<()> {
        let items = self.pop_to_mark()?;
        self.set(items)
    }

    /// Sets items of the last object; those of an object that is no dictionary are not kept.
    fn set(&mut self, items: Vec<Ref>) -> Result<()> {
        let (pairs, rest) = items.as_chunks();
        if !rest.is_empty() {
            return self.wrong("keys with values", "a key without one");
        }
        let target = self.last()? as usize;
        if let Object::Dict(kept) = &mut self.objects[target] {
            kept.extend(pairs.iter().map(|&[key, value]| (key, value)));
        }
        Ok(())
    }

    fn line(&mut self) -> Result<&'a str> {
        let left = &self.bytes[self.at..];
        let Some(length) = left.iter().position(|&byte| byte == b'\n') else {
            return self.wrong("a line", "no end of one");
        };
        let line = self.take(length + 1)?;
        self.utf8(&line[..length])
    }

    fn global(&mut self) -> Result<()> {
        let module = self.line()?;
        let name = self.line()?;
        let module = self.new_object(Object::Text(module));
        self.push_ok(Object::Global(Global { module, name }))
    }

    fn stack_global(&mut self) -> Result<()> {
        let (name, module) = (self.pop()?, self.pop()?);
        let Object::Text(name) = self.objects[name as usize] else {
            return self.wrong("a class by its name", "something else");
        };
        self.push_ok(Object::Global(Global { module, name }))
    }

    /// A dictionary's class makes a dictionary; anything else is kept as who would be called with what.
    fn call(&mut self) -> Result<()> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let made = match self.objects[callable as usize] {
            Object::Global(global) if self.makes_dict(global) => Object::Dict(Vec::new()),
            _ => Object::Call(callable, arguments),
        };
        self.push_ok(made)
    }

    fn makes_dict(&self, global: Global<'_>) -> bool {
        self.objects[global.module as usize] == Object::Text("collections")
            && ["OrderedDict", "defaultdict"].contains(&global.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root<'a>(pickle: &'a Pickle<'_>) -> &'a Object<'a> {
        pickle.get(pickle.root())
    }

    fn message(bytes: &[u8]) -> String {
        Pickle::read(bytes).unwrap_err().to_string()
    }

    #[test]
    fn numbers_are_pythons() {
        // python3 -c 'import pickle; [print(pickle.dumps(n, 2)) for n in (255, 65535, -2, 2**40, -2**40, 2**70)]'
        let cases: [(&[u8], Option<i64>); 6] = [
            (b"\x80\x02K\xff.", Some(255)),
            (b"\x80\x02M\xff\xff.", Some(65535)),
            (b"\x80\x02J\xfe\xff\xff\xff.", Some(-2)),
            (b"\x80\x02\x8a\x06\x00\x00\x00\x00\x00\x01.", Some(1 << 40)),
            (b"\x80\x02\x8a\x06\x00\x00\x00\x00\x00\xff.", Some(-(1 << 40))),
            (b"\x80\x02\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x40.", None),
        ];
        for (bytes, expected) in cases {
            let pickle = Pickle::read(bytes).unwrap();
            assert_eq!(pickle.int(pickle.root()), expected, "{bytes:?}");
        }
    }

    #[test]
    fn dictionaries_of_every_protocol_are_the_same() {
        // python3 -c 'import pickle; [print(pickle.dumps({"a": 1, "b": (2, [3.5], None)}, n)) for n in (2, 5)]'
        let two = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01K\x01X\x01\x00\x00\x00bq\x02K\x02]q\x03G@\x0c\x00\x00\x00\x00\x00\x00aN\x87q\x04u.";
        let five = b"\x80\x05\x95\x1f\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94K\x01\x8c\x01b\x94K\x02]\x94G@\x0c\x00\x00\x00\x00\x00\x00aN\x87\x94u.";
        for bytes in [&two[..], five] {
            let pickle = Pickle::read(bytes).unwrap();
            let pairs = pickle.dict(pickle.root()).unwrap();
            let keys: Vec<_> = pairs.iter().map(|&(key, _)| pickle.text(key).unwrap()).collect();
            assert_eq!((keys, pickle.int(pairs[0].1)), (vec!["a", "b"], Some(1)));
            let items = pickle.tuple(pairs[1].1).unwrap();
            assert_eq!((pickle.int(items[0]), &items[1..]), (Some(2), &[NOTHING; 2][..]));
        }
    }

    #[test]
    fn a_class_is_kept_as_its_name_and_never_called() {
        // os.system("rm"), as every pickle that means harm has it
        let pickle = Pickle::read(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00rm\x85R}b.").unwrap();
        let Object::Call(callable, arguments) = *root(&pickle) else { panic!("{pickle:?}") };
        assert_eq!(pickle.global(callable), Some(("os", "system")));
        assert_eq!(pickle.tuple(arguments).map(|items| pickle.text(items[0])), Some(Some("rm")));
    }

    #[test]
    fn an_object_that_holds_itself_many_times_takes_no_memory() {
        // Each level is a tuple of the one before, twice: 2^5000 objects in Python's own counting.
        let levels = b"h\x00h\x00\x86q\x00".repeat(5000);
        let bytes = [b"\x80\x02)q\x00", &levels[..], b"."].concat();
        assert_eq!(Pickle::read(&bytes).unwrap().objects.len(), 5002);
        let deep = [&b"\x80\x02)"[..], &b"\x85".repeat(1 << 20), b"."].concat();
        assert_eq!(Pickle::read(&deep).unwrap().objects.len(), (1 << 20) + 2);
    }

    #[test]
    fn lengths_are_held_against_what_is_left() {
        for (bytes, expected) in [
            (&b"\x80\x02X\xff\xff\xff\xffab"[..], "byte 7: expected 4294967295 more bytes, found 2"),
            (b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xffa", "more bytes, found 1"),
            (b"\x80\x02\x8b\xff\xff\xff\x7f", "expected 2147483647 more bytes, found 0"),
            (b"\x80\x02", "expected 1 more bytes, found 0"),
        ] {
            assert!(message(bytes).contains(expected), "{}", message(bytes));
        }
        let long = vec![0; LONGEST + 1];
        let message = message(&long);
        assert!(
            message.contains("at most 16777216 bytes") && message.contains("found 16777217"),
            "{message}"
        );
    }

    #[test]
    fn a_pickle_that_makes_no_sense_is_refused_with_its_place() {
        for (bytes, expected) in [
            (&b"\x80\x02."[..], "an object on the stack"),
            (b"\x80\x02u.", "a mark on the stack"),
            (b"\x80\x02K\x01(0.", "an object on the stack"),
            (b"\x80\x02}(K\x01u.", "a key without one"),
            (b"\x80\x02h\x07.", "none under 7"),
            (b"\x80\x02X\x01\x00\x00\x00\xff.", "UTF-8"),
            (b"\x80\x02K\x01K\x02\x93.", "a class by its name"),
            (b"\x80\x02cos", "a line"),
            (b"\x80\x06", "expected pickle protocol 2 to 5, found 6"),
            (b"\x80\x02I1\n.", "byte 2: expected an opcode that torch.save writes, found 0x49"),
        ] {
            assert!(message(bytes).contains(expected), "{}", message(bytes));
        }
    }
}
