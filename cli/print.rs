//! Everything that reaches the terminal as text: lines that survive a closed pipe, tables, durations, counts.

use std::io::Write;
use std::time::Duration;

pub use train::summary::percent;

/// Writes a line to standard output; ends the program quietly if nobody reads it (`distill models | head -1`).
pub fn line(text: impl AsRef<str>) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{}", text.as_ref()).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Writes a line to standard output for whoever still reads it: a server goes on when nobody does.
pub fn announce(text: impl AsRef<str>) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", text.as_ref()).and_then(|()| out.flush());
}

/// Writes a line to standard error; a closed one is ignored.
pub fn note(text: impl AsRef<str>) {
    let _ = writeln!(std::io::stderr().lock(), "{}", text.as_ref());
}

/// Pretty JSON on standard output.
pub fn json(value: &impl serde::Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => line(text),
        Err(error) => note(format!("error: cannot write JSON: {error}")),
    }
}

/// Rows with a header, columns aligned: the first (or the first few) to the left, the rest to the right.
pub struct Table {
    rows: Vec<Vec<String>>,
    texts: usize,
}

impl Table {
    /// A table with this header.
    pub fn new(header: &[&str]) -> Self {
        Self { rows: vec![header.iter().map(|cell| cell.to_string()).collect()], texts: 1 }
    }

    /// The same with its first `texts` columns to the left.
    pub fn with_texts(self, texts: usize) -> Self {
        Self { texts, ..self }
    }

    /// Adds a row of as many cells as the header has.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table as lines.
    pub fn lines(&self) -> Vec<String> {
        let columns = self.rows[0].len();
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        self.rows.iter().map(|row| aligned(row, &widths, self.texts)).collect()
    }

    /// Prints it.
    pub fn print(&self) {
        for text in self.lines() {
            line(text);
        }
    }
}

fn aligned(row: &[String], widths: &[usize], texts: usize) -> String {
    let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, &width))| {
        if column < texts { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
    });
    cells.collect::<Vec<_>>().join("  ").trim_end().to_string()
}

/// `85 s`, `3 min 20 s`, `2 h 05 min`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// `5,483,032`
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(thousands(5_483_032), "5,483,032");
        assert_eq!(thousands(12), "12");
        assert_eq!(duration(Duration::from_secs(200)), "3 min 20 s");
        assert_eq!(duration(Duration::from_secs(7500)), "2 h 05 min");
        assert_eq!(percent(Some(0.5073)), "50.73");
    }

    #[test]
    fn tables_align() {
        let mut table = Table::new(&["network", "parameters"]);
        table.row(["resnet18".into(), "11,689,512".into()]);
        assert_eq!(table.lines(), ["network   parameters", "resnet18  11,689,512"]);
    }
}
