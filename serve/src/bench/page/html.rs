//! The report as one page without outside assets, light or dark as the reader's system is.

use super::escaped::html as escaped;
use super::plot;
use super::sections::{Section, sections};
use crate::bench::report::BenchReport;

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #ffffff; --faint: #6b7280; --line: #d9dce1; --doubt: #9a3412; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --paper: #15171a; --faint: #9aa3af; --line: #33383f; --doubt: #fdba74; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
p { max-width: 56rem; color: var(--faint); margin: .3rem 0 .8rem }
.doubts li { color: var(--doubt) }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px }
th, td { text-align: left; padding: .25rem .7rem .25rem 0; border-bottom: 1px solid var(--line); white-space: nowrap }
td:last-child { white-space: normal; overflow-wrap: anywhere }
th { color: var(--faint); font-weight: 500 }
svg { max-width: 100%; height: auto } svg text { fill: var(--ink); font: 12px system-ui, sans-serif } svg .faint { fill: var(--faint) }
svg .grid { stroke: var(--line); fill: none } svg .curve { fill: none; stroke-width: 1.6 }
";

impl BenchReport {
    /// The report as a page of its own.
    pub fn to_html(&self) -> String {
        let mut body = String::from("<h1>Benchmark</h1>\n");
        body += &format!("<p>{}</p>\n", escaped(&self.machine.text()));
        if !self.warnings.is_empty() {
            let items = self.warnings.iter().map(|warning| format!("<li>{}</li>\n", escaped(warning)));
            body += &format!("<ul class=\"doubts\">\n{}</ul>\n", items.collect::<String>());
        }
        body += &format!("<h2>Accuracy and latency</h2>\n{}\n", plot::accuracy_latency(self));
        body += &format!("<h2>Distribution of latencies</h2>\n{}\n", plot::distributions(self));
        body.extend(sections(self).iter().map(section));
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
             content=\"width=device-width\">\n<title>Benchmark</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\
             </body>\n</html>\n"
        )
    }
}

fn section(section: &Section) -> String {
    let head: String = section.head.iter().map(|cell| format!("<th>{}</th>", escaped(cell))).collect();
    let row = |cells: &Vec<String>| {
        let cells: String = cells.iter().map(|cell| format!("<td>{}</td>", escaped(cell))).collect();
        format!("<tr>{cells}</tr>\n")
    };
    let rows: String = section.rows.iter().map(row).collect();
    format!(
        "<h2>{}</h2>\n<p>{}</p>\n<div class=\"wide\"><table>\n<tr>{head}</tr>\n{rows}</table></div>\n",
        escaped(section.title),
        escaped(&section.note)
    )
}
