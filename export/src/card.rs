//! The model card: what `manifest.json` knows, in words, with the front matter that model hubs read. It says nothing that
//! the manifest does not know, and names what nobody measured.

use std::fmt::Write;

use models::bundle::{BundleFile, FileRole, Latency, Measured, RawBundle};
use models::manifest::{Channels, Fit};

/// Labels that are listed; of more the rest is counted.
const LABELS: usize = 50;
/// Splits that results are reported on to hubs: nothing that was trained or selected on.
const REPORTED: &str = "test";

/// The card of a bundle.
pub fn text(bundle: &RawBundle) -> String {
    let sections = [
        front_matter(bundle),
        heading(bundle),
        intended_use(bundle),
        input(bundle),
        recipe(bundle),
        accuracy(bundle),
        latency(bundle),
        files(bundle),
        how_to_run(bundle),
        limits(bundle),
    ];
    sections.join("\n")
}

/// A string as YAML takes it anywhere: JSON's quotes are YAML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A string as a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}

fn front_matter(bundle: &RawBundle) -> String {
    let data = bundle.model.training.as_ref().map(|training| quoted(&training.data));
    let mut text = String::from("---\nlibrary_name: distill\npipeline_tag: image-classification\n");
    let _ = writeln!(text, "tags:\n- image-classification\n- onnx\n- {}", quoted(&bundle.model.architecture));
    if let Some(data) = &data {
        let _ = writeln!(text, "datasets:\n- {data}");
    }
    let float = bundle.file(FileRole::Weights).map(|file| file.path.as_str());
    let results: Vec<&Measured> = bundle
        .accuracy
        .iter()
        .filter(|row| row.split == REPORTED && Some(row.file.as_str()) == float)
        .collect();
    if !results.is_empty() {
        let _ = writeln!(
            text,
            "metrics:\n- accuracy\nmodel-index:\n- name: {}\n  results:",
            quoted(&bundle.name)
        );
    }
    for row in results {
        let data = quoted(&row.data);
        let _ = writeln!(text, "  - task:\n      type: image-classification");
        let _ =
            writeln!(text, "    dataset:\n      name: {data}\n      type: {data}\n      split: {REPORTED}");
        let _ = writeln!(text, "    metrics:\n    - type: accuracy\n      value: {}", row.top1);
    }
    text + "---\n"
}

fn heading(bundle: &RawBundle) -> String {
    let model = &bundle.model;
    format!(
        "# {}\n\n{} for {} classes, version {}, written by {}. Everything here comes from `manifest.json`; \
         `distill verify` checks it again.\n",
        bundle.name,
        model.architecture,
        model.labels.len(),
        bundle.version,
        bundle.producer
    )
}

fn intended_use(bundle: &RawBundle) -> String {
    let labels = &bundle.model.labels;
    let listed: Vec<String> = labels.iter().take(LABELS).map(|label| format!("`{}`", cell(label))).collect();
    let more = match labels.len().saturating_sub(LABELS) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "## Intended use\n\nOne label for a whole picture, on a small device, out of: {}{more}. Every picture gets one of \
         them, also one that shows none of them.\n",
        listed.join(", ")
    )
}

fn input(bundle: &RawBundle) -> String {
    let input = &bundle.model.input;
    let channels = match input.channels {
        Channels::Rgb => "RGB",
        Channels::Gray => "gray",
    };
    let fit = match input.fit {
        Fit::Stretch => "stretched",
        Fit::Crop => "resized by its shorter side and cropped in the middle",
    };
    format!(
        "## Input\n\n{} x {} pixels, {channels}, {fit} to that size by bilinear resampling with antialiasing. \
         Normalization is inside the network.\n",
        input.height, input.width
    )
}

fn recipe(bundle: &RawBundle) -> String {
    let mut text = String::from("## Training\n\n");
    let Some(training) = &bundle.model.training else { return text + "Nothing is known of it.\n" };
    let _ = writeln!(
        text,
        "Method `{}` on `{}` with {} labels, {} steps, seed {}.",
        training.method, training.data, training.labels, training.steps, training.seed
    );
    if let Some(teacher) = &bundle.model.teacher {
        let reached = teacher.accuracies.iter().find(|accuracy| accuracy.split == REPORTED);
        let reached = reached.map(|a| format!(", {} on {} test pictures", percent(a.top1), a.count));
        let (architecture, reached) = (&teacher.architecture, reached.unwrap_or_default());
        let _ = writeln!(text, "Its teacher: `{}` ({architecture}{reached}).", teacher.name);
    }
    let _ = writeln!(text, "\n```json\n{:#}\n```", training.recipe);
    text
}

fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

fn accuracy(bundle: &RawBundle) -> String {
    let mut text = String::from("## Accuracy\n\n");
    if bundle.accuracy.is_empty() {
        return text + "Not measured.\n";
    }
    text += "| file | engine | data | split | pictures | top-1 | top-5 | same answer as float |\n|---|---|---|---|---:|---:|---:|---:|\n";
    for row in &bundle.accuracy {
        let Measured { file, engine, data, split, count, .. } = row;
        let share = |share: Option<f64>| share.map_or("-".into(), percent);
        let [top1, top5, same] = [Some(row.top1), row.top5, row.agreement].map(share);
        let data = cell(data);
        let _ =
            writeln!(text, "| {file} | {engine} | {data} | {split} | {count} | {top1} | {top5} | {same} |");
    }
    text
}

fn latency(bundle: &RawBundle) -> String {
    let mut text = String::from("## Latency\n\n");
    let Some(Latency { machine, .. }) = bundle.latency.first() else { return text + "Not measured.\n" };
    let _ = writeln!(
        text,
        "Pixels in memory to logits, on {} ({} logical cores, {}, kernels {}). `distill bench` measures in earnest.\n",
        cell(&machine.cpu),
        machine.cores,
        machine.system,
        machine.kernels
    );
    text += "| file | engine | threads | batch | statistic | calls | microseconds |\n|---|---|---:|---:|---|---:|---:|\n";
    for row in &bundle.latency {
        let Latency { file, engine, threads, batch, statistic, count, microseconds, .. } = row;
        let statistic = statistic.name();
        let _ = writeln!(
            text,
            "| {file} | {engine} | {threads} | {batch} | {statistic} | {count} | {microseconds:.1} |"
        );
    }
    text
}

fn files(bundle: &RawBundle) -> String {
    let mut text = String::from("## Files\n\n| file | what | bytes |\n|---|---|---:|\n");
    for BundleFile { path, role, bytes, .. } in &bundle.files {
        let _ = writeln!(text, "| {} | {} | {bytes} |", cell(path), what(*role));
    }
    for refused in &bundle.refused {
        let _ = writeln!(text, "\n`{}` is not here: {}", cell(&refused.file), refused.reason);
    }
    text
}

fn what(role: FileRole) -> &'static str {
    match role {
        FileRole::Weights => "weights and manifest, for `distill`",
        FileRole::WeightsFp16 => "the same, weights in half precision",
        FileRole::Onnx => "ONNX, single precision",
        FileRole::OnnxInt8 => "ONNX, quantized to 8 bits",
        FileRole::OnnxFp16 => "ONNX, weights in half precision",
        FileRole::Card => "this page",
        FileRole::Other => "something else",
    }
}

fn how_to_run(bundle: &RawBundle) -> String {
    let mut text = String::from(
        "## How to run\n\n```sh\ndistill verify .            # every hash, the probe, the metadata\ndistill serve .             # \
         or: distill-serve . --addr 0.0.0.0:8080\ncurl --data-binary @picture.jpg -H 'content-type: image/jpeg' \
         http://127.0.0.1:8080/v1/classify\n```\n",
    );
    if let Some(onnx) = bundle.file(FileRole::Onnx) {
        let model = &bundle.model.input;
        let mode = if model.channels == Channels::Gray { "L" } else { "RGB" };
        let planes =
            if model.channels == Channels::Gray { "x[None, None]" } else { "x.transpose(2, 0, 1)[None]" };
        let _ = write!(
            text,
            "\n```python\nimport json, numpy as np, onnxruntime as ort\nfrom PIL import Image\n\n\
             session = ort.InferenceSession(\"{file}\")\nlabels = \
             json.loads(session.get_modelmeta().custom_metadata_map[\"distill.labels\"])\n\
             picture = Image.open(\"picture.jpg\").convert(\"{mode}\").resize(({width}, {height}), Image.BILINEAR)\n\
             {feed}\nlogits = session.run(None, feed)[0][0]\nprint(labels[int(logits.argmax())])\n```\n",
            file = onnx.path,
            width = model.width,
            height = model.height,
            feed = format_args!(
                "x = np.asarray(picture, np.uint8)\ntaken = session.get_inputs()[0]\nif taken.type == \"tensor(uint8)\":\n    \
                 feed = {{taken.name: x.reshape(1, {}, {}, -1)}}\nelse:\n    x = x.astype(np.float32) / 255\n    feed = \
                 {{taken.name: {planes}}}",
                model.height, model.width
            ),
        );
        if model.fit == Fit::Crop {
            text += "\n(The picture is to be cropped to a square in the middle first.)\n";
        }
    }
    text
}

fn limits(bundle: &RawBundle) -> String {
    let mut text = String::from(
        "## Limits\n\nAccuracies hold for pictures like those they were measured on; others can be answered wrongly and with \
         confidence. Probabilities are not calibrated.",
    );
    if bundle.accuracy.iter().all(|row| row.split != REPORTED) {
        text += " No accuracy on test pictures is known.";
    }
    if bundle.latency.is_empty() {
        text += " No latency was measured.";
    }
    text + "\n"
}
