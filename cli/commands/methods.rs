//! `distill methods`: the training and distillation methods, and the options of one.

use distillation::DISTILLATIONS;
use serde_json::json;
use train::{METHODS, OptionSpec};

use crate::args::MethodsArgs;
use crate::failure::{Failure, Result};
use crate::print;

/// What the two registries have in common.
struct Described {
    name: &'static str,
    summary: &'static str,
    paper: &'static str,
    ema: f32,
    options: &'static [OptionSpec],
    distillation: bool,
}

fn all() -> impl Iterator<Item = Described> {
    let training = METHODS.iter().map(|entry| Described {
        name: entry.name,
        summary: entry.summary,
        paper: entry.paper,
        ema: entry.ema,
        options: entry.options,
        distillation: false,
    });
    training.chain(DISTILLATIONS.iter().map(|entry| Described {
        name: entry.name,
        summary: entry.summary,
        paper: entry.paper,
        ema: entry.ema,
        options: entry.options,
        distillation: true,
    }))
}

/// Lists the methods, or describes one.
pub fn run(args: &MethodsArgs) -> Result {
    let described: Vec<Described> = match &args.name {
        Some(name) => vec![find(name)?],
        None => all().collect(),
    };
    if args.json {
        let options = |entry: &Described| {
            let one = |option: &OptionSpec| json!({ "name": option.key, "default": option.default, "help": option.help });
            entry.options.iter().map(one).collect::<Vec<_>>()
        };
        let values = described.iter().map(|entry| {
            let kind = if entry.distillation { "distillation" } else { "training" };
            json!({
                "name": entry.name, "kind": kind, "summary": entry.summary, "paper": entry.paper, "ema": entry.ema,
                "options": options(entry),
            })
        });
        print::json(&values.collect::<Vec<_>>());
    } else if args.name.is_some() {
        described.iter().for_each(describe);
    } else {
        list(&described);
    }
    Ok(())
}

fn find(name: &str) -> Result<Described> {
    all().find(|entry| entry.name == name).ok_or_else(|| {
        let suggestion = models::nearest::suggestion(name, all().map(|entry| entry.name));
        let known: Vec<&str> = all().map(|entry| entry.name).collect();
        Failure::mendable(format!("no method `{name}`{suggestion}; known: {}", known.join(", ")))
    })
}

fn list(described: &[Described]) {
    for (heading, distillation) in
        [("Training (--method):", false), ("\nDistillation (--distillation):", true)]
    {
        print::line(heading);
        for entry in described.iter().filter(|entry| entry.distillation == distillation) {
            print::line(format!("  {:<16}{}", entry.name, entry.summary));
        }
    }
    print::line("\nOptions of one: distill methods NAME");
}

fn describe(entry: &Described) {
    let flag = if entry.distillation { "--distillation-set" } else { "--set" };
    print::line(format!("{}: {}\n{}", entry.name, entry.summary, entry.paper));
    let average = if entry.ema > 0.0 { format!("decay {}", entry.ema) } else { "none".into() };
    print::line(format!("moving average (--ema): {average}\n\noptions ({flag} NAME=VALUE):"));
    for option in entry.options {
        print::line(format!("  {:<20}default {:<12}{}", option.key, option.default, option.help));
    }
}
