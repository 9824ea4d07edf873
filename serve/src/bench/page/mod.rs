//! A report as files for people and machines: `report.html`, `report.md`, `report.json` and every sample. The page and
//! the Markdown are made of the same sections. Never here: measuring.

mod escaped;
mod html;
mod markdown;
mod plot;
mod sections;

use std::path::Path;

use super::latency::Series;
use super::report::{BenchReport, Outcome};
use crate::{Result, ServeError};

impl BenchReport {
    /// Writes `report.html`, `report.md`, `report.json` and `samples/NAME.npy` into a folder, which is made if need be.
    ///
    /// A samples file is NumPy's format 1.0: nanoseconds as little-endian `u64`, in the order they were taken.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let samples = folder.join("samples");
        let at = |path: &Path| ServeError::io(format!("write {}", path.display()));
        std::fs::create_dir_all(&samples).map_err(at(&samples))?;
        let json = serde_json::to_string_pretty(self).map_err(|error| at(folder)(error.into()))?;
        let texts = [
            ("report.html", self.to_html()),
            ("report.md", self.to_markdown()),
            ("report.json", json + "\n"),
        ];
        for (name, text) in texts {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(at(&path))?;
        }
        for series in &self.samples {
            let path = samples.join(format!("{}.npy", series.name));
            std::fs::write(&path, npy(series)).map_err(at(&path))?;
        }
        Ok(())
    }
}

/// NumPy's file format 1.0 (numpy.lib.format): magic, version, length of the header, header, values.
fn npy(series: &Series) -> Vec<u8> {
    let mut header =
        format!("{{'descr': '<u8', 'fortran_order': False, 'shape': ({},), }}", series.samples.len());
    // Values begin at a multiple of 64 bytes; the header ends with a line's end.
    let padding = 63 - (10 + header.len()) % 64;
    header += &" ".repeat(padding);
    header.push('\n');
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend_from_slice(&(header.len() as u16).to_le_bytes());
    file.extend_from_slice(header.as_bytes());
    file.extend(series.samples.nanoseconds().flat_map(u64::to_le_bytes));
    file
}

/// What a reader has to know before believing a figure.
pub(super) fn doubts(report: &BenchReport) -> Vec<String> {
    let mut doubts = Vec::new();
    for row in &report.rows {
        let name = format!("{} on {}", row.model, row.title());
        if let Outcome::Missing(reason) = &row.outcome {
            doubts.push(format!("{name} was not measured: {reason}"));
        }
        let Some(figures) = row.figures() else { continue };
        if figures.latency.stability.stable == Some(false) {
            doubts.push(format!("{name} was unstable: its last trials differ by more than 10 %"));
        }
    }
    for load in &report.http {
        let open = load.open.iter().filter(|open| !open.held);
        doubts.extend(open.map(|open| {
            format!(
                "{} over HTTP did not hold {} requests/s: {:.0} were answered",
                load.model, open.rate, open.answers_per_second
            )
        }));
        for closed in &load.closed {
            let of_same = |limit: &&super::GeneratorLimit| limit.connections == closed.connections;
            let limit = load.generator_limit.iter().find(of_same);
            if limit.is_some_and(|limit| closed.answers_per_second > 0.8 * limit.requests_per_second) {
                doubts.push(format!(
                    "{} at {} connections is near what the load generator itself can do",
                    load.model, closed.connections
                ));
            }
        }
    }
    doubts
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::Samples;

    #[test]
    fn samples_are_numpys_format() {
        let samples = Samples(vec![Duration::from_nanos(258), Duration::from_micros(1)]);
        let file = npy(&Series { name: "a".into(), samples });
        assert_eq!(&file[..8], b"\x93NUMPY\x01\x00");
        let length = usize::from(u16::from_le_bytes([file[8], file[9]]));
        assert!((10 + length).is_multiple_of(64) && file[9 + length] == b'\n');
        let header = std::str::from_utf8(&file[10..10 + length]).unwrap();
        assert!(header.contains("'<u8'") && header.contains("(2,)"), "{header}");
        assert_eq!(&file[10 + length..], [258u64.to_le_bytes(), 1000u64.to_le_bytes()].concat());
    }
}
