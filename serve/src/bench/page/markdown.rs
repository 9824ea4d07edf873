//! The report as Markdown.

use super::escaped::markdown as escaped;
use super::sections::{Section, sections};
use crate::bench::report::BenchReport;

impl BenchReport {
    /// The report as Markdown: what to doubt first, then every table.
    pub fn to_markdown(&self) -> String {
        let mut text = String::from("# Benchmark\n\n");
        for warning in &self.warnings {
            text += &format!("- **{}**\n", escaped(warning));
        }
        for section in sections(self) {
            text += &table(&section);
        }
        text
    }
}

fn table(section: &Section) -> String {
    let line =
        |cells: &mut dyn Iterator<Item = String>| format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "));
    let mut text = format!("\n## {}\n\n", section.title);
    if !section.note.is_empty() {
        text += &format!("{}\n\n", section.note);
    }
    text += &line(&mut section.head.iter().map(|cell| cell.to_string()));
    text += &line(&mut section.head.iter().map(|_| "---".to_string()));
    for row in &section.rows {
        text += &line(&mut row.iter().map(|cell| escaped(cell)));
    }
    text
}
