//! The page of a finished distillation, `report.html`: the networks beside each other, and how each learned.

use train::page::{Curve, History, chart, confusion, document, table};
use train::{Result, RunFolder, Summary, folder::write_atomically, summary::percent};

use crate::report::{Report, Side};

/// Writes the page in place of the student's own, `trained`.
pub(crate) fn write(report: &Report, trained: &Summary, folder: &RunFolder) -> Result<()> {
    let sides: Vec<(&str, &Side)> = [("teacher", Some(&report.teacher)), ("student", Some(&report.student))]
        .into_iter()
        .chain([("labels alone", report.baseline.as_ref())])
        .filter_map(|(name, side)| Some((name, side?)))
        .collect();
    let rows: Vec<Vec<String>> = sides.iter().map(|(name, side)| row(name, side)).collect();
    let header = ["", "network", "parameters", "MACs", "latency us", "train %", "val %", "test %", "gap"];
    let mut sections = vec![table(&header, &rows), remarks(report, trained)];

    let mut accuracies = Vec::new();
    let mut student = History::default();
    for (name, side) in &sides {
        // A teacher that was given may be a file, without a history.
        let metrics = RunFolder::new(&side.run).metrics();
        if !metrics.exists() {
            continue;
        }
        let history = History::read(&metrics)?;
        accuracies.push(Curve { name: (*name).into(), ..history.accuracy.clone() });
        if *name == "student" {
            student = history;
        }
    }
    sections.push(chart("Accuracy on the validation pictures", "%", &accuracies));
    sections.push(chart("The student's loss", "", &student.losses));
    if !trained.confusion.is_empty() {
        sections.push(confusion(&trained.classes, &trained.confusion));
    }
    let title = format!(
        "{} to {} by {}, {}",
        report.teacher.arch, report.student.arch, report.distillation, report.data
    );
    write_atomically(&folder.page(), document(&title, &sections).as_bytes())
}

fn row(name: &str, side: &Side) -> Vec<String> {
    vec![
        name.into(),
        side.arch.clone(),
        side.params.to_string(),
        side.macs.to_string(),
        format!("{:.0}", side.latency_us),
        percent(Some(side.train_accuracy)),
        percent(side.val_accuracy),
        percent(side.test_accuracy),
        side.gap.map_or_else(|| "-".into(), |gap| format!("{:+.2}", gap * 100.0)),
    ]
}

fn remarks(report: &Report, trained: &Summary) -> String {
    let mut said = format!(
        "<p>{} labels, seed {}, {:.0} s in all. Latency: median of one picture, native engine, one thread. Gap: training \
         accuracy less validation accuracy, in points. The student's training waited for pictures {:.1} % of its time.",
        report.labels,
        report.seed,
        report.seconds,
        trained.wait_share * 100.0
    );
    if let Some(fidelity) = &report.fidelity {
        said += &format!(
            " The student answers as the teacher on {:.2} % of the test pictures; mean KL {:.3} nats.",
            fidelity.agreement * 100.0,
            fidelity.kl
        );
    }
    said + "</p>\n"
}
