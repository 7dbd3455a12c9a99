//! The table: for people on standard output, for programs as JSON.

use std::fmt::{self, Write as _};

use serde_json::{Value, json};

/// Writes a line to standard output.
#[expect(clippy::print_stdout, reason = "the table is what this program is for")]
pub(crate) fn say(line: impl fmt::Display) {
    println!("{line}");
}

/// Writes a line to standard error.
#[expect(clippy::print_stderr, reason = "whoever reads the table wants to know why there is none")]
pub(crate) fn complain(line: impl fmt::Display) {
    eprintln!("{line}");
}

/// What a figure has to reach.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
    Reported,
}

impl Goal {
    fn is_met(self, figure: f64) -> Option<bool> {
        match self {
            Self::AtLeast(least) => Some(figure >= least),
            Self::AtMost(most) => Some(figure <= most),
            Self::Reported => None,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "≥ {least}"),
            Self::AtMost(most) => write!(f, "≤ {most}"),
            Self::Reported => f.write_str("reported"),
        }
    }
}

/// One line of the table.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// What was done.
    pub(crate) work: String,
    /// What is counted: `/s`, `µs`, `MiB`, `ms`.
    pub(crate) unit: &'static str,
    /// What the program and the reference came to in each turn; the reference is `None` where there is none.
    pub(crate) turns: Vec<(f64, Option<f64>)>,
    pub(crate) compared: Compared,
    pub(crate) goal: Goal,
    /// What else is worth knowing.
    pub(crate) notes: Vec<String>,
}

/// What the goal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compared {
    /// The program's figure as a multiple of the reference's.
    Ratio,
    /// How much more the program's figure is.
    Difference,
    /// The program's figure.
    Figure,
}

/// The middle one.
pub(crate) fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match (figures.get(middle), figures.len() % 2) {
        (Some(figure), 1) => *figure,
        (Some(figure), _) => (figure + figures.get(middle - 1).unwrap_or(figure)) / 2.0,
        (None, _) => f64::NAN,
    }
}

impl Row {
    fn ours(&self) -> f64 {
        median(self.turns.iter().map(|(ours, _)| *ours))
    }

    fn reference(&self) -> Option<f64> {
        let references: Vec<f64> = self.turns.iter().filter_map(|(_, reference)| *reference).collect();
        (!references.is_empty()).then(|| median(references))
    }

    /// The median over the turns, each of which compares what was measured next to each other.
    pub(crate) fn figure(&self) -> f64 {
        let pairs = self.turns.iter().filter_map(|(ours, reference)| Some((*ours, (*reference)?)));
        match self.compared {
            Compared::Ratio => median(pairs.map(|(ours, reference)| ours / reference)),
            Compared::Difference => median(pairs.map(|(ours, reference)| ours - reference)),
            Compared::Figure => self.ours(),
        }
    }

    fn verdict(&self) -> &'static str {
        match self.goal.is_met(self.figure()) {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        }
    }

    fn line(&self) -> String {
        let figure = match self.compared {
            Compared::Ratio => format!("{:.2}", self.figure()),
            Compared::Difference => format!("+{:.1} {}", self.figure(), self.unit),
            Compared::Figure => String::new(),
        };
        let reference = self.reference().map(|reference| amount(reference, self.unit)).unwrap_or_default();
        let ours = amount(self.ours(), self.unit);
        let goal = self.goal.to_string();
        format!("{:<58} {ours:>12} {reference:>12} {figure:>10}  {goal:<9} {}", self.work, self.verdict())
    }

    fn to_json(&self) -> Value {
        json!({
            "work": self.work,
            "unit": self.unit,
            "ours": self.ours(),
            "reference": self.reference(),
            "figure": self.figure(),
            "compared": format!("{:?}", self.compared).to_lowercase(),
            "goal": self.goal.to_string(),
            "met": self.goal.is_met(self.figure()),
            "turns": self.turns.iter().map(|(ours, reference)| json!([ours, reference])).collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }
}

fn amount(figure: f64, unit: &str) -> String {
    let digits = if figure.abs() >= 100.0 { 0 } else { 1 };
    format!("{figure:.digits$} {unit}")
}

/// The rows so far.
#[derive(Debug, Default)]
pub(crate) struct Table(Vec<Row>);

impl Table {
    /// Adds rows, and says them.
    pub(crate) fn add(&mut self, rows: Vec<Row>) {
        for row in rows {
            say(row.line());
            for note in &row.notes {
                say(format_args!("    {note}"));
            }
            self.0.push(row);
        }
    }

    pub(crate) fn head() -> String {
        format!("{:<58} {:>12} {:>12} {:>10}  {:<9}", "work", "threepid", "reference", "ratio", "goal")
    }

    /// The whole table.
    pub(crate) fn text(&self) -> String {
        let mut text = Self::head();
        for row in &self.0 {
            let _ = write!(text, "\n{}", row.line());
        }
        text
    }

    pub(crate) fn to_json(&self, machine: &Value) -> Value {
        json!({ "machine": machine, "rows": self.0.iter().map(Row::to_json).collect::<Vec<_>>() })
    }
}
