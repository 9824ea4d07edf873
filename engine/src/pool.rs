//! The one thread pool of a process: tasks are numbered, threads take the next number, and the caller works along.
//!
//! A run allocates nothing. Which thread does a task never shows in a result: kernels divide their work by shape, not
//! by thread count. Workers spin for a bounded time and then park. Denormals are flushed to zero while a run lasts.
//!
//! Never here: arithmetic, or a second pool.

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, Thread};

use crate::simd::{ByteIsa, Isa};

/// Set in the gate while tasks may be taken.
const OPEN: u64 = 1 << 16;
/// Bits of the gate that count the workers inside.
const INSIDE: u64 = OPEN - 1;
/// Position of the run's number in the gate.
const NUMBER: u32 = 17;
/// Turns that an idle worker spins before it parks, about a tenth of a millisecond.
const SPINS: u32 = 3000;

thread_local! {
    /// Whether this thread is inside a run: a run within a run is serial.
    static INSIDE_RUN: Cell<bool> = const { Cell::new(false) };
}

type Task<'a> = dyn Fn(usize) + Sync + 'a;

/// The job that the gate guards: written while the gate is closed and empty, read only by workers inside it.
struct Job {
    task: Cell<Option<*const Task<'static>>>,
    tasks: Cell<usize>,
}

/// What pool and workers share.
struct Shared {
    /// Run number, open bit and count of workers inside, in one word so that entering is one exchange.
    gate: AtomicU64,
    job: Job,
    next: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
}

// SAFETY: `job` is the only part that is not `Sync` by itself. The pool writes it under its run lock while the gate is
// closed and no worker is inside; workers read it only after they entered through the open gate.
unsafe impl Sync for Shared {}
// SAFETY: as above; the task behind the pointer is `Sync` and outlives the run that publishes it.
unsafe impl Send for Shared {}

struct Worker {
    thread: Thread,
    parked: Arc<AtomicBool>,
    handle: Option<JoinHandle<()>>,
}

/// Threads that compute, the caller's among them, and the instruction set that their kernels use.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
    /// Held during a run, so that callers on several threads take turns.
    turn: Mutex<()>,
    isa: Isa,
    byte_isa: ByteIsa,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("threads", &self.threads())
            .field("isa", &self.isa)
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool of `threads` threads, the caller's among them, with the best instruction set of this machine. `0` is
    /// taken as `1`. If the system gives fewer threads, the pool has fewer.
    pub fn new(threads: usize) -> Self {
        Self::with_isa(threads, Isa::detect())
    }

    /// The same with a chosen instruction set.
    ///
    /// # Panics
    /// If this machine does not have it.
    pub fn with_isa(threads: usize, isa: Isa) -> Self {
        assert!(isa.is_available(), "this machine has no {}", isa.name());
        let shared = Arc::new(Shared {
            gate: AtomicU64::new(0),
            job: Job { task: Cell::new(None), tasks: Cell::new(0) },
            next: AtomicUsize::new(0),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
        });
        let workers =
            (1..threads.min(INSIDE as usize)).map_while(|index| Worker::spawn(&shared, index)).collect();
        Self { shared, workers, turn: Mutex::new(()), isa, byte_isa: ByteIsa::of(isa) }
    }

    /// The same with other instructions for products of bytes than the fastest.
    ///
    /// # Panics
    /// If this machine does not have them, or they do not go with the pool's instruction set.
    pub fn with_byte_isa(mut self, byte_isa: ByteIsa) -> Self {
        let fits = byte_isa.is_available() && byte_isa.goes_with(self.isa);
        assert!(fits, "no {} beside {} on this machine", byte_isa.name(), self.isa.name());
        self.byte_isa = byte_isa;
        self
    }

    /// Threads that compute, the caller's among them.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// The instruction set of the kernels.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The instructions of the kernels over bytes.
    pub fn byte_isa(&self) -> ByteIsa {
        self.byte_isa
    }

    /// Calls `task` once with every number below `tasks`, on all threads, and returns when all are done. Within a task,
    /// and with one thread or task, it is a plain loop.
    ///
    /// # Panics
    /// With the first panic of a task, after the others have come to rest.
    pub fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let nested = INSIDE_RUN.get();
        if tasks <= 1 || self.workers.is_empty() || nested {
            let _flush = (!nested).then(FlushDenormals::set);
            return (0..tasks).for_each(task);
        }
        let _turn = lock(&self.turn);
        let _flush = FlushDenormals::set();
        self.open(tasks, task);
        self.shared.work();
        self.close();
        if let Some(panic) = lock(&self.shared.panic).take() {
            resume_unwind(panic);
        }
    }

    /// Publishes the job and wakes the workers that sleep.
    fn open(&self, tasks: usize, task: &Task<'_>) {
        // SAFETY: only the lifetime changes; `close` waits for all workers before `run` returns.
        let task: *const Task<'static> = unsafe { std::mem::transmute(std::ptr::from_ref(task)) };
        self.shared.job.task.set(Some(task));
        self.shared.job.tasks.set(tasks);
        self.shared.next.store(0, Ordering::Relaxed);
        let number = (self.shared.gate.load(Ordering::Relaxed) >> NUMBER) + 1;
        self.shared.gate.store((number << NUMBER) | OPEN, Ordering::SeqCst);
        // More workers than tasks that the caller leaves over have nothing to do.
        for worker in self.workers.iter().take(tasks - 1) {
            worker.wake();
        }
    }

    /// Lets no further worker in and waits for those inside.
    fn close(&self) {
        self.shared.gate.fetch_and(!OPEN, Ordering::SeqCst);
        let mut turns = 0;
        while self.shared.gate.load(Ordering::Acquire) & INSIDE != 0 {
            pause(&mut turns);
        }
        self.shared.job.task.set(None);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in &mut self.workers {
            worker.wake();
            worker.thread.unpark();
            // A worker catches the panics of its tasks, so joining cannot fail.
            let _ = worker.handle.take().map(JoinHandle::join);
        }
    }
}

impl Worker {
    fn spawn(shared: &Arc<Shared>, index: usize) -> Option<Self> {
        let parked = Arc::new(AtomicBool::new(false));
        let (shared, flag) = (Arc::clone(shared), Arc::clone(&parked));
        let body = move || shared.serve(&flag);
        let handle = thread::Builder::new().name(format!("engine-{index}")).spawn(body).ok()?;
        Some(Self { thread: handle.thread().clone(), parked, handle: Some(handle) })
    }

    fn wake(&self) {
        if self.parked.swap(false, Ordering::SeqCst) {
            self.thread.unpark();
        }
    }
}

impl Shared {
    /// A worker's life: wait for a run, work, until the pool goes.
    fn serve(&self, parked: &AtomicBool) {
        let _flush = FlushDenormals::set();
        let mut last = 0;
        while let Some(number) = self.wait(last, parked) {
            last = number;
            self.work();
            self.gate.fetch_sub(1, Ordering::Release);
        }
    }

    /// Enters the next run after `last` and returns its number; `None` when the pool goes.
    fn wait(&self, last: u64, parked: &AtomicBool) -> Option<u64> {
        let mut spins = 0;
        while !self.stop.load(Ordering::Relaxed) {
            if let Some(number) = self.enter(last) {
                return Some(number);
            }
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
            } else {
                spins = 0;
                self.park(last, parked);
            }
        }
        None
    }

    fn enter(&self, last: u64) -> Option<u64> {
        let gate = self.gate.load(Ordering::Acquire);
        let fresh = gate & OPEN != 0 && gate >> NUMBER != last;
        let entered =
            fresh && self.gate.compare_exchange(gate, gate + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        entered.then_some(gate >> NUMBER)
    }

    /// Sleeps unless a run has opened meanwhile: the flag is raised before the gate is read, and the pool reads the
    /// flag after it opened the gate, so one of the two sees the other.
    fn park(&self, last: u64, parked: &AtomicBool) {
        parked.store(true, Ordering::SeqCst);
        let gate = self.gate.load(Ordering::SeqCst);
        let idle = gate & OPEN == 0 || gate >> NUMBER == last;
        if idle && !self.stop.load(Ordering::SeqCst) {
            thread::park();
        }
        parked.store(false, Ordering::SeqCst);
    }

    /// Takes tasks until none is left; a panic ends the run and is kept for the caller.
    fn work(&self) {
        let Some(task) = self.job.task.get() else { return };
        let tasks = self.job.tasks.get();
        INSIDE_RUN.set(true);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let index = self.next.fetch_add(1, Ordering::Relaxed);
                if index >= tasks {
                    break;
                }
                // SAFETY: the pool keeps the task alive until every worker has left the gate.
                unsafe { (*task)(index) };
            }
        }));
        INSIDE_RUN.set(false);
        if let Err(panic) = outcome {
            self.next.store(tasks, Ordering::Relaxed);
            lock(&self.panic).get_or_insert(panic);
        }
    }
}

/// Spins at first, then gives the core away.
fn pause(turns: &mut u32) {
    *turns += 1;
    if *turns < SPINS { std::hint::spin_loop() } else { thread::yield_now() }
}

/// Locks even after a panic: what the locks guard is whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While it lives, this thread flushes denormal results to zero and reads denormal operands as zero, where the
/// processor can: denormals cost a hundred times an ordinary operation.
pub struct FlushDenormals {
    #[cfg(target_arch = "x86_64")]
    before: u32,
    /// The mode belongs to the thread that set it.
    _thread: PhantomData<*const ()>,
}

#[cfg(target_arch = "x86_64")]
mod control {
    //! The control register of SSE; the intrinsics for it are deprecated in favor of assembly.
    use std::arch::asm;

    /// Flush results to zero, denormals are zero.
    pub const FLUSH: u32 = 1 << 15 | 1 << 6;

    pub fn read() -> u32 {
        let mut word = 0_u32;
        // SAFETY: stores the register into a local; SSE is part of x86-64.
        unsafe { asm!("stmxcsr [{}]", in(reg) &mut word, options(nostack, preserves_flags)) };
        word
    }

    pub fn write(word: u32) {
        // SAFETY: loads a word that came from `read` with only the two flush bits changed.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &word, options(nostack, preserves_flags, readonly)) };
    }
}

impl FlushDenormals {
    /// Sets the mode on this thread.
    #[cfg(target_arch = "x86_64")]
    pub fn set() -> Self {
        let before = control::read();
        control::write(before | control::FLUSH);
        Self { before, _thread: PhantomData }
    }

    /// Does nothing on this processor.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn set() -> Self {
        Self { _thread: PhantomData }
    }
}

impl Drop for FlushDenormals {
    fn drop(&mut self) {
        #[cfg(target_arch = "x86_64")]
        control::write(self.before);
    }
}

/// A slice that tasks write to at places that do not overlap.
pub struct Disjoint<'a, T> {
    start: AtomicPtr<T>,
    len: usize,
    _slice: PhantomData<&'a mut [T]>,
}

impl<'a, T: Send> Disjoint<'a, T> {
    /// Lends `slice` to the tasks of a run.
    pub fn new(slice: &'a mut [T]) -> Self {
        Self { start: AtomicPtr::new(slice.as_mut_ptr()), len: slice.len(), _slice: PhantomData }
    }

    /// Start of the whole slice.
    pub fn as_mut_ptr(&self) -> *mut T {
        self.start.load(Ordering::Relaxed)
    }

    /// `len` elements from `start`.
    ///
    /// # Safety
    /// No two parts that live at the same time overlap.
    ///
    /// # Panics
    /// If the part lies outside the slice.
    #[allow(clippy::mut_from_ref)] // that the parts do not overlap is the caller's promise
    pub unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "part {start}+{len} of {}", self.len);
        // SAFETY: inside the slice, and unique by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr().add(start), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn every_task_runs_once_whatever_the_thread_count() {
        for threads in [0, 1, 2, 3, 5] {
            let pool = Pool::new(threads);
            for tasks in [0, 1, 2, 7, 100] {
                let counts: Vec<AtomicU32> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
                for _ in 0..20 {
                    pool.run(tasks, &|index| {
                        counts[index].fetch_add(1, Ordering::Relaxed);
                    });
                }
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 20), "{threads} {tasks}");
            }
        }
    }

    #[test]
    fn sleeping_workers_are_woken_and_work() {
        let pool = Pool::new(2);
        thread::sleep(std::time::Duration::from_millis(20));
        let threads = Mutex::new(Vec::new());
        let meet = std::sync::Barrier::new(2);
        pool.run(2, &|_| {
            meet.wait(); // passes only if two threads are here at once
            threads.lock().unwrap().push(thread::current().id());
        });
        let threads = threads.into_inner().unwrap();
        assert_ne!(threads[0], threads[1]);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        let caught = catch_unwind(AssertUnwindSafe(|| {
            pool.run(8, &|index| assert_ne!(index, 5, "task five"));
        }));
        let message = *caught.unwrap_err().downcast::<String>().unwrap();
        assert!(message.contains("task five"), "{message}");
        let done = AtomicU32::new(0);
        pool.run(8, &|_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), 8);
    }

    #[test]
    fn a_run_within_a_task_is_serial_and_several_callers_take_turns() {
        let pool = Pool::new(2);
        let done = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    pool.run(4, &|_| {
                        pool.run(3, &|_| {
                            done.fetch_add(1, Ordering::Relaxed);
                        });
                    });
                });
            }
        });
        assert_eq!(done.into_inner(), 36);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn denormals_are_flushed_during_a_run_and_not_after() {
        let product = |x: f32| std::hint::black_box(x) * std::hint::black_box(1e-20);
        for threads in [1, 2] {
            let pool = Pool::new(threads);
            pool.run(4, &|_| assert_eq!(product(1e-20), 0.0));
        }
        assert!(product(1e-20) > 0.0);
    }
}
