//! The figures of all sides, for people and for machines.

use serde_json::{Value, json};

use super::load::Figures;
use super::server::{Network, Side};
use super::{Case, median};

/// A figure's median over the rounds, and its range.
struct Spread {
    median: f64,
    low: f64,
    high: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Self {
        Self {
            median: median(values),
            low: values.iter().copied().fold(f64::INFINITY, f64::min),
            high: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }

    fn text(&self, decimals: usize) -> String {
        format!("{:.decimals$} ({:.decimals$}-{:.decimals$})", self.median, self.low, self.high)
    }

    fn json(&self) -> Value {
        json!({ "median": self.median, "min": self.low, "max": self.high })
    }
}

fn spread(figures: &[Figures], of: fn(&Figures) -> f64) -> Spread {
    Spread::of(&figures.iter().map(of).collect::<Vec<_>>())
}

const REQUESTS: fn(&Figures) -> f64 = |figures| figures.requests_per_second;
const P50: fn(&Figures) -> f64 = |figures| figures.p50_us / 1e3;
const P99: fn(&Figures) -> f64 = |figures| figures.p99_us / 1e3;

/// How we stand to the Python side, round by round: its figure over ours or ours over its.
struct Ratios {
    requests: Spread,
    p50: Spread,
}

impl Case {
    fn python(&self) -> Option<&[Figures]> {
        let found = self.sides.iter().find(|(side, _)| matches!(side, Side::Python { .. }));
        found.map(|(_, figures)| figures.as_slice())
    }

    fn ratios(&self, ours: &[Figures]) -> Option<Ratios> {
        let rounds = || ours.iter().zip(self.python().unwrap_or_default());
        self.python()?;
        let of = |of: fn(&Figures) -> f64| {
            rounds().map(|(ours, theirs)| of(ours) / of(theirs)).collect::<Vec<_>>()
        };
        Some(Ratios { requests: Spread::of(&of(REQUESTS)), p50: Spread::of(&of(P50)) })
    }
}

/// Lines for people.
pub fn text(arch: &str, network: &Network, cases: &[Case]) -> String {
    let mut lines = vec![format!(
        "{arch}, {}, wrk with one thread; medians of the rounds (range); x: against the Python side, round by round",
        network.picture.file_name().unwrap_or_default().to_string_lossy()
    )];
    for case in cases {
        lines.push(format!("\n{} connection(s)", case.connections));
        for (side, figures) in &case.sides {
            let mut line = format!(
                "  {:<32} {:>26} requests/s   p50 {:>22} ms   p99 {:>22} ms",
                side.name(),
                spread(figures, REQUESTS).text(0),
                spread(figures, P50).text(3),
                spread(figures, P99).text(3),
            );
            if let Some(ratios) = case.ratios(figures).filter(|_| !matches!(side, Side::Python { .. })) {
                line += &format!("   {}x requests/s, {}x p50", ratios.requests.text(2), ratios.p50.text(2));
            }
            lines.push(line);
        }
    }
    lines.join("\n")
}

/// The same for machines.
pub fn json(cases: &[Case]) -> Value {
    let side = |case: &Case, side: Side, figures: &[Figures]| {
        let ratios = case
            .ratios(figures)
            .map(|ratios| json!({ "requests_per_second": ratios.requests.json(), "p50": ratios.p50.json() }));
        json!({
            "side": side.name(),
            "rounds": figures.len(),
            "requests_per_second": spread(figures, REQUESTS).json(),
            "p50_ms": spread(figures, P50).json(),
            "p99_ms": spread(figures, P99).json(),
            "against_python": ratios,
        })
    };
    let case = |case: &Case| {
        let sides: Vec<Value> = case.sides.iter().map(|(who, figures)| side(case, *who, figures)).collect();
        json!({ "connections": case.connections, "sides": sides })
    };
    cases.iter().map(case).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_round_by_round() {
        let turn = |requests_per_second, p50_us| Figures { requests_per_second, p50_us, p99_us: 1.0 };
        let case = Case {
            connections: 16,
            sides: vec![
                (Side::Native, vec![turn(400.0, 100.0), turn(900.0, 300.0), turn(200.0, 200.0)]),
                (
                    Side::Python { workers: 2 },
                    vec![turn(100.0, 400.0), turn(300.0, 600.0), turn(100.0, 1000.0)],
                ),
            ],
        };
        let ratios = case.ratios(&case.sides[0].1).unwrap();
        assert_eq!((ratios.requests.median, ratios.requests.low, ratios.requests.high), (3.0, 2.0, 4.0));
        assert_eq!((ratios.p50.median, ratios.p50.low, ratios.p50.high), (0.25, 0.2, 0.5));
        let json = json(&[case]);
        assert_eq!(json[0]["sides"][0]["against_python"]["requests_per_second"]["median"], 3.0);
        assert_eq!(json[0]["sides"][1]["side"], "FastAPI, uvicorn, 2 worker(s)");
    }
}
