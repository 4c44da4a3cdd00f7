//! The marks that Vestibule has to reach, in `bench/budgets.toml`: each with its formula over kept
//! results, and what is known of it. Kept results and that file must agree.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::BenchError;
use crate::figures::{Metric, Part, Subject, metric_named};
use crate::results::Results;
use crate::scenario::{Scenario, Size};
use crate::table::align;
use crate::target::Target;

/// Which results, against which marks.
#[derive(Debug, clap::Args)]
pub(crate) struct BudgetArguments {
    /// A file that `compare --json` has written
    results: PathBuf,
    /// The marks
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/budgets.toml"))]
    budgets: PathBuf,
}

/// Prints each mark with its figure in the results. A mark whose status in the file is another than
/// these results say, or that they can't judge, is an error.
pub(crate) fn run(arguments: &BudgetArguments) -> Result<(), BenchError> {
    let BudgetArguments { results, budgets } = arguments;
    let marks = read(budgets)?;
    let results = Results::read(results)?;
    if results.size == Size::Quick {
        println!("Taken with --quick: these are no figures, only a sign that all works.");
    }
    let judged: Vec<(&Mark, Judgement)> =
        marks.iter().map(|mark| (mark, mark.judge(&results))).collect();
    print!("{}", table(&judged));
    let file = budgets.display();
    let mut wrong = 0;
    for (mark, judgement) in judged.iter().filter(|(mark, judgement)| !mark.agrees(judgement)) {
        wrong += 1;
        let (known, found) = (mark.status.name(), judgement.name());
        println!("\n{:?}: {file} says {known}, these results say {found}", mark.what);
        if let Some(figure) = judgement.figure() {
            println!("status = {found:?}\nfigure = {figure:.2}");
        }
    }
    if wrong == 0 { Ok(()) } else { Err(BenchError::Budgets(wrong)) }
}

/// What is known of a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Status {
    /// The last kept results reach it.
    Held,
    /// They don't, or nobody has measured it; the reason is beside it.
    Missed,
    /// It has no limit.
    Reported,
}

/// A mark as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    what: String,
    scenario: Option<Scenario>,
    metric: Option<String>,
    #[serde(default = "gateway")]
    part: Part,
    #[serde(default)]
    over: Vec<Target>,
    over_scenario: Option<Scenario>,
    shown_by: Option<String>,
    at_most: Option<f64>,
    at_least: Option<f64>,
    status: Status,
    figure: Option<f64>,
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    mark: Vec<Written>,
}

/// A mark that makes sense.
#[derive(Debug)]
struct Mark {
    what: String,
    formula: Formula,
    bound: Bound,
    status: Status,
}

/// Where its figure comes from.
#[derive(Debug)]
enum Formula {
    /// The metric itself.
    Alone(Subject),
    /// As a multiple of the same metric of each of these: the worst counts.
    OverTargets(Subject, Vec<Target>),
    /// As a multiple of the same metric in another scenario.
    OverScenario(Subject, Subject),
    /// Not from results: a test shows it.
    Elsewhere,
}

/// What its figure has to be.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
    Any,
}

/// What results say of a mark.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Judgement {
    Held(f64),
    Missed(f64),
    Reported(f64),
    /// The results lack a scenario or a target of its formula.
    Unmeasured,
    /// See [`Formula::Elsewhere`].
    Elsewhere,
}

fn gateway() -> Part {
    Part::Gateway
}

fn read(path: &Path) -> Result<Vec<Mark>, BenchError> {
    let text = std::fs::read_to_string(path)
        .map_err(BenchError::io(format!("reading {}", path.display())))?;
    parse(&text).map_err(|what| BenchError::File { path: path.to_owned(), what })
}

fn parse(text: &str) -> Result<Vec<Mark>, String> {
    let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
    file.mark.into_iter().map(Mark::new).collect()
}

impl Mark {
    fn new(written: Written) -> Result<Self, String> {
        let wrong = |why: &str| format!("mark {:?}: {why}", written.what);
        let bound = match (written.at_most, written.at_least) {
            (Some(limit), None) => Bound::AtMost(limit),
            (None, Some(limit)) => Bound::AtLeast(limit),
            (None, None) => Bound::Any,
            (Some(_), Some(_)) => return Err(wrong("at_most or at_least, not both")),
        };
        if (bound == Bound::Any) != (written.status == Status::Reported) {
            return Err(wrong("\"reported\" is the status of a mark without a limit"));
        }
        let reason = written.reason.as_deref().unwrap_or_default();
        match written.status {
            Status::Missed if reason.is_empty() => return Err(wrong("missed needs a reason")),
            Status::Held if written.shown_by.is_none() && written.figure.is_none() => {
                return Err(wrong("held needs a figure"));
            }
            Status::Held | Status::Missed | Status::Reported => {}
        }
        let formula = formula(&written).map_err(|why| wrong(&why))?;
        Ok(Self { what: written.what, formula, bound, status: written.status })
    }

    fn judge(&self, results: &Results) -> Judgement {
        let figure = match &self.formula {
            Formula::Elsewhere => return Judgement::Elsewhere,
            Formula::Alone(subject) => subject.figure(results).map(|figure| figure.median),
            Formula::OverScenario(subject, other) => {
                subject.over(*other, results).map(|figure| figure.median)
            }
            Formula::OverTargets(subject, others) => {
                let multiple = |other: &Target| subject.over(subject.on(*other), results);
                let all: Option<Vec<f64>> =
                    others.iter().map(|other| Some(multiple(other)?.median)).collect();
                all.and_then(|all| {
                    all.into_iter().reduce(|one, other| self.bound.worse(one, other))
                })
            }
        };
        match (figure, self.bound) {
            (None, _) => Judgement::Unmeasured,
            (Some(figure), Bound::Any) => Judgement::Reported(figure),
            (Some(figure), Bound::AtMost(limit)) if figure <= limit => Judgement::Held(figure),
            (Some(figure), Bound::AtLeast(limit)) if figure >= limit => Judgement::Held(figure),
            (Some(figure), _) => Judgement::Missed(figure),
        }
    }

    fn agrees(&self, judgement: &Judgement) -> bool {
        match judgement {
            Judgement::Elsewhere => true,
            Judgement::Held(_) => self.status == Status::Held,
            Judgement::Missed(_) => self.status == Status::Missed,
            Judgement::Reported(_) => self.status == Status::Reported,
            Judgement::Unmeasured => false,
        }
    }
}

fn formula(written: &Written) -> Result<Formula, String> {
    let (scenario, name) = match (&written.shown_by, written.scenario, &written.metric) {
        (Some(_), None, None) => return Ok(Formula::Elsewhere),
        (None, Some(scenario), Some(name)) => (scenario, name),
        _ => return Err("either shown_by, or scenario and metric".to_owned()),
    };
    let metric = named(scenario, name)?;
    let subject = Subject { scenario, target: Target::Vestibule, part: written.part, metric };
    match (&written.over[..], written.over_scenario) {
        ([], None) => Ok(Formula::Alone(subject)),
        ([], Some(scenario)) => {
            named(scenario, name)?;
            Ok(Formula::OverScenario(subject, Subject { scenario, ..subject }))
        }
        (others, None) => match others.iter().find(|other| other.listener(scenario).is_none()) {
            Some(other) => Err(format!("{} has no part in {}", other.name(), scenario.name())),
            None if others.iter().any(|other| matches!(other, Target::Build(_))) => {
                Err("over: a target that every comparison has".to_owned())
            }
            None => Ok(Formula::OverTargets(subject, others.to_vec())),
        },
        (_, Some(_)) => Err("over or over_scenario, not both".to_owned()),
    }
}

fn named(scenario: Scenario, name: &str) -> Result<Metric, String> {
    metric_named(scenario, name).ok_or_else(|| format!("{} has no {name:?}", scenario.name()))
}

impl Bound {
    fn worse(self, one: f64, other: f64) -> f64 {
        if let Self::AtLeast(_) = self { one.min(other) } else { one.max(other) }
    }

    fn text(self) -> String {
        match self {
            Self::AtMost(limit) => format!("≤ {limit}"),
            Self::AtLeast(limit) => format!("≥ {limit}"),
            Self::Any => "-".to_owned(),
        }
    }
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Missed => "missed",
            Self::Reported => "reported",
        }
    }
}

impl Judgement {
    fn name(self) -> &'static str {
        match self {
            Self::Held(_) => "held",
            Self::Missed(_) => "missed",
            Self::Reported(_) => "reported",
            Self::Unmeasured => "not measured",
            Self::Elsewhere => "shown by a test",
        }
    }

    fn figure(self) -> Option<f64> {
        match self {
            Self::Held(figure) | Self::Missed(figure) | Self::Reported(figure) => Some(figure),
            Self::Unmeasured | Self::Elsewhere => None,
        }
    }
}

fn table(judged: &[(&Mark, Judgement)]) -> String {
    let header = ["mark", "limit", "figure", "these results", "budgets.toml"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for (mark, judgement) in judged {
        let figure = judgement.figure().map_or("-".to_owned(), |figure| format!("{figure:.2}"));
        let (found, known) = (judgement.name().to_owned(), mark.status.name().to_owned());
        rows.push(vec![mark.what.clone(), mark.bound.text(), figure, found, known]);
    }
    align(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{bulk, results};

    /// A mark on bulk-up, and its judgement by a run in which ours took 2 CPU-seconds, the relay 3
    /// and the floor 1.
    fn judge(lines: &str) -> (Mark, Judgement) {
        let text = format!(
            "[[mark]]\nwhat = \"w\"\nscenario = \"bulk-up\"\nmetric = \"CPU-s/GB\"\n{lines}"
        );
        let mark = parse(&text).expect("the mark makes sense").remove(0);
        let samples = vec![
            bulk(Target::Vestibule, "gateway", 0, 2),
            bulk(Target::Relay, "gateway", 0, 3),
            bulk(Target::Floor, "floor", 0, 1),
        ];
        let judgement = mark.judge(&results(samples));
        (mark, judgement)
    }

    fn refusal(lines: &str) -> String {
        parse(&format!("[[mark]]\nwhat = \"w\"\n{lines}")).expect_err("the mark makes no sense")
    }

    #[test]
    fn the_marks_of_this_repository_make_sense() {
        let marks = parse(include_str!("../budgets.toml")).expect("every mark makes sense");
        assert!(marks.len() > 20, "{}", marks.len());
    }

    #[test]
    fn a_multiple_is_judged_against_the_best_of_the_others() {
        let held = "status = \"held\"\nfigure = 0.7\n";
        let (mark, judgement) = judge(&format!("over = [\"relay\"]\nat_most = 0.7\n{held}"));
        assert_eq!(judgement, Judgement::Held(2.0 / 3.0));
        assert!(mark.agrees(&judgement));
        let (mark, judgement) =
            judge(&format!("over = [\"relay\", \"floor\"]\nat_most = 1\n{held}"));
        assert_eq!(judgement, Judgement::Missed(2.0));
        assert!(!mark.agrees(&judgement), "the file claims more than the results show");
        let (_, judgement) = judge(&format!("over = [\"relay\", \"floor\"]\nat_least = 1\n{held}"));
        assert_eq!(judgement, Judgement::Missed(2.0 / 3.0));
    }

    #[test]
    fn a_figure_alone_is_judged_or_only_reported() {
        let (mark, judgement) = judge("status = \"reported\"\n");
        assert_eq!(judgement, Judgement::Reported(2.0 / 2.048));
        assert!(mark.agrees(&judgement));
        let (_, judgement) = judge("at_most = 0.9\nstatus = \"missed\"\nreason = \"r\"\n");
        assert_eq!(judgement, Judgement::Missed(2.0 / 2.048));
    }

    #[test]
    fn what_the_results_lack_is_neither_held_nor_missed_and_agrees_with_nothing() {
        let known = "status = \"missed\"\nreason = \"r\"\n";
        for over in ["over = [\"relay\", \"haproxy\"]", "over_scenario = \"bulk-down\""] {
            let (mark, judgement) = judge(&format!("{over}\nat_most = 1\n{known}"));
            assert_eq!(judgement, Judgement::Unmeasured);
            assert!(!mark.agrees(&judgement));
        }
    }

    #[test]
    fn a_mark_that_makes_no_sense_is_refused_by_its_name() {
        let bulk = "scenario = \"bulk-up\"\nmetric = \"CPU-s/GB\"\n";
        let known = "at_most = 1\nstatus = \"held\"\nfigure = 1\n";
        let rathole = format!("{bulk}over = [\"rathole\"]\n{known}");
        assert_eq!(refusal(&rathole), "mark \"w\": rathole has no part in bulk-up");
        let metric = format!("scenario = \"idle\"\nmetric = \"GB/s\"\n{known}");
        assert_eq!(refusal(&metric), "mark \"w\": idle has no \"GB/s\"");
        for (lines, what) in [
            (known.to_owned(), "either shown_by"),
            (format!("{bulk}{known}at_least = 1\n"), "not both"),
            (format!("{bulk}status = \"held\"\nfigure = 1\n"), "without a limit"),
            (format!("{bulk}at_most = 1\nstatus = \"missed\"\n"), "needs a reason"),
            (format!("{bulk}at_most = 1\nstatus = \"held\"\n"), "needs a figure"),
            (format!("{bulk}{known}overs = []\n"), "overs"),
        ] {
            assert!(refusal(&lines).contains(what), "{lines}: {}", refusal(&lines));
        }
    }
}
