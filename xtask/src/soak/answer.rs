//! Whether an answer is the right one, and whose: probabilities of each picture, held against what each version of the
//! model is known to say. It sends nothing.

use serde_json::Value;

use super::case::{Ask, numbers};
use super::client::Answer;

/// The version that gave an answer, or what is wrong with it.
pub fn version_of(ask: &Ask, answer: &Answer, tolerance: f64) -> Result<usize, String> {
    let found = match ask.form.as_deref() {
        Some("oip") => from_inference(answer)?,
        _ => from_classify(answer)?,
    };
    let versions = &ask.answers;
    let whose = versions.iter().position(|expected| is_near(expected, &found, tolerance));
    whose.ok_or_else(|| format!("found {}, expected one of {}", told(&found), told_all(versions)))
}

fn is_near(expected: &[Vec<f64>], found: &[Vec<f64>], tolerance: f64) -> bool {
    let near = |left: &Vec<f64>, right: &Vec<f64>| {
        left.len() == right.len() && left.iter().zip(right).all(|(a, b)| (a - b).abs() <= tolerance)
    };
    expected.len() == found.len() && expected.iter().zip(found).all(|(left, right)| near(left, right))
}

/// Probabilities by picture and class of `POST /v1/classify`.
fn from_classify(answer: &Answer) -> Result<Vec<Vec<f64>>, String> {
    let json = parsed(&answer.body)?;
    let predictions = json["predictions"].as_array().ok_or("no predictions")?;
    predictions.iter().map(by_class).collect()
}

fn by_class(prediction: &Value) -> Result<Vec<f64>, String> {
    let top = prediction["top"].as_array().ok_or("no classes")?;
    let mut probabilities = vec![f64::NAN; top.len()];
    for candidate in top {
        let index = candidate["index"].as_u64().ok_or("a class without an index")? as usize;
        let place = probabilities.get_mut(index).ok_or("a class beyond the classes")?;
        *place = candidate["probability"].as_f64().ok_or("a class without a probability")?;
    }
    Ok(probabilities)
}

/// Probabilities by picture and class of `POST /v2/models/NAME/infer`, in JSON or as bytes behind it.
fn from_inference(answer: &Answer) -> Result<Vec<Vec<f64>>, String> {
    let header = answer.header("inference-header-content-length");
    let length = header.map_or(Ok(answer.body.len()), str::parse).map_err(|_| "no length of the JSON")?;
    let (json, tail) = answer.body.split_at_checked(length).ok_or("less than the length of the JSON")?;
    let json = parsed(json)?;
    let output = &json["outputs"][0];
    let classes = output["shape"][1].as_u64().filter(|&classes| classes > 0).ok_or("no shape")? as usize;
    let values = if header.is_some() { floats(tail) } else { numbers(&output["data"]) };
    Ok(values.chunks(classes).map(<[f64]>::to_vec).collect())
}

fn floats(bytes: &[u8]) -> Vec<f64> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect()
}

fn parsed(bytes: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("no JSON: {error}"))
}

fn told_all(versions: &[Vec<Vec<f64>>]) -> String {
    versions.iter().map(|version| told(version)).collect::<Vec<_>>().join(" or ")
}

/// The most probable class of each picture: enough to recognize an answer by.
fn told(pictures: &[Vec<f64>]) -> String {
    let best = |classes: &Vec<f64>| {
        let best = classes.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        best.map_or_else(|| "nothing".into(), |(class, probability)| format!("{class} ({probability:.4})"))
    };
    format!("[{}]", pictures.iter().map(best).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(form: &str) -> Ask {
        Ask {
            kind: "png".into(),
            path: "/".into(),
            headers: Vec::new(),
            body: Vec::new(),
            statuses: vec![200],
            form: Some(form.into()),
            answers: vec![vec![vec![0.25, 0.75]], vec![vec![0.5, 0.5]]],
        }
    }

    fn answer(headers: &[(&str, String)], body: impl Into<Vec<u8>>) -> Answer {
        let headers = headers.iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
        Answer { status: 200, headers, body: body.into() }
    }

    fn classified(first: f64) -> Answer {
        let body = format!(
            r#"{{"predictions": [{{"top": [{{"index": 1, "probability": {}}}, {{"index": 0, "probability": {first}}}]}}]}}"#,
            1.0 - first
        );
        answer(&[], body)
    }

    #[test]
    fn an_answer_belongs_to_the_version_that_gives_it() {
        let whose = |first| version_of(&ask("classify"), &classified(first), 1e-4);
        assert_eq!(whose(0.250_01), Ok(0));
        assert_eq!(whose(0.499_99), Ok(1));
        assert!(whose(0.3).unwrap_err().contains("expected one of [1 (0.7500)] or [1 (0.5000)]"));
        assert!(version_of(&ask("classify"), &answer(&[], "{}"), 1e-4).is_err());
    }

    #[test]
    fn inference_answers_are_read_from_json_and_from_bytes() {
        let json = r#"{"outputs": [{"shape": [1, 2], "data": [0.5, 0.5]}]}"#;
        assert_eq!(version_of(&ask("oip"), &answer(&[], json), 1e-4), Ok(1));
        let header = r#"{"outputs": [{"shape": [1, 2]}]}"#;
        let tail: Vec<u8> = [0.25f32, 0.75].iter().flat_map(|value| value.to_le_bytes()).collect();
        let length = [("inference-header-content-length", header.len().to_string())];
        let binary = answer(&length, [header.as_bytes(), &tail].concat());
        assert_eq!(version_of(&ask("oip"), &binary, 1e-4), Ok(0));
    }
}
