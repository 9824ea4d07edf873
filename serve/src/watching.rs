//! Looks at files now and then, and loads what has changed: models, keys, the certificate. What cannot be loaded is told,
//! and what was there before goes on.
//!
//! A file counts as changed when its time or size did since the last look and no longer do at the next one: whoever is
//! still writing is left alone. A model whose bytes turn out to be the same is not exchanged.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::SystemTime;

use crate::events::Event;
use crate::http::{Shared, reload_access};
use crate::repository::NotReloaded;
use crate::{Result, ServeError};

/// Files of a model's folder that matter.
const OF_A_MODEL: [&str; 3] = ["safetensors", "onnx", "json"];

/// Ends the looking when dropped.
pub(crate) struct Watching(#[allow(dead_code)] Sender<()>);

/// Begins to look, if the options say so. What counts as changed is what changes from here on: call it before the models
/// are loaded, or a file that changes meanwhile is missed.
pub(crate) fn start(app: &Shared) -> Result<Option<Watching>> {
    let Some(pause) = app.options.watch else { return Ok(None) };
    let (sender, ended) = channel::<()>();
    let (app, mut watched) = (app.clone(), watched(app));
    let watch = move || {
        while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
            watched.iter_mut().for_each(|watched| watched.look(&app));
        }
    };
    let thread = std::thread::Builder::new().name("watch".into());
    thread.spawn(watch).map_err(ServeError::io("start the thread that watches files"))?;
    Ok(Some(Watching(sender)))
}

/// What is there to be loaded again.
enum What {
    /// The model of this place in the repository.
    Model(usize),
    /// Keys and certificate.
    Access,
}

struct Watched {
    what: What,
    paths: Vec<PathBuf>,
    /// What was loaded.
    known: Seen,
    /// What the last look saw.
    last: Seen,
}

type Seen = Vec<(PathBuf, Option<SystemTime>, u64)>;

fn watched(app: &Shared) -> Vec<Watched> {
    let models = app.models.models().iter().enumerate();
    let models = models.map(|(index, model)| (What::Model(index), model.paths()));
    let access = std::iter::once((What::Access, app.access_files()));
    let watched = |(what, paths): (What, Vec<PathBuf>)| {
        let known = seen(&paths);
        Watched { what, paths, last: known.clone(), known }
    };
    models.chain(access).map(watched).collect()
}

impl Watched {
    fn look(&mut self, app: &Shared) {
        let now = seen(&self.paths);
        let settled = now == self.last;
        self.last = now;
        if settled && self.last != self.known && self.load(app) {
            self.known = self.last.clone();
        }
    }

    /// Whether it had its turn; if not, the next look tries again.
    fn load(&self, app: &Shared) -> bool {
        match self.what {
            // The model tells of its failures itself.
            What::Model(index) => {
                let refreshed = app.models.models()[index].refresh(&app.options, &app.sinks);
                return refreshed != Err(NotReloaded::Busy);
            }
            What::Access => {
                if let Err(error) = reload_access(app) {
                    app.sinks.tell(&Event::Warning(format!("{error}; what was read before goes on")));
                }
            }
        }
        true
    }
}

/// Every file that matters, with its time and size.
fn seen(paths: &[PathBuf]) -> Seen {
    let mut seen = Vec::new();
    paths.iter().for_each(|path| look_at(path, 2, &mut seen));
    seen.sort();
    seen
}

fn look_at(path: &Path, depth: usize, seen: &mut Seen) {
    let Ok(found) = path.metadata() else { return };
    if found.is_file() {
        seen.push((path.into(), found.modified().ok(), found.len()));
        return;
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let matters = |path: &PathBuf| {
        path.is_dir() || path.extension().is_some_and(|kind| OF_A_MODEL.iter().any(|known| kind == *known))
    };
    if depth > 0 {
        entries.filter(matters).for_each(|path| look_at(&path, depth - 1, seen));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_that_matter_are_seen_and_a_change_of_size_shows() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("model.safetensors", "one");
        write("metrics.jsonl", "a line");
        let paths = [folder.path().to_path_buf()];
        let first = seen(&paths);
        assert_eq!(first.len(), 1, "{first:?}");
        write("metrics.jsonl", "two lines");
        assert_eq!(seen(&paths), first);
        write("model.safetensors", "another");
        assert_ne!(seen(&paths), first);
    }
}
