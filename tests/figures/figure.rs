//! A figure as it is kept: measured values with their spread, their target, the verdict.
//!
//! Knows nothing of how anything is measured. What could not be measured is unknown and
//! never counts as met.

use std::fmt;

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Met,
    Missed,
    /// The fault did not fire or the measurement failed.
    Unknown,
    /// Nothing is promised.
    Informative,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    Exactly(f64),
    AtMost(f64),
    AtLeast(f64),
    Below(f64),
}

impl Target {
    fn judge(self, value: f64) -> Verdict {
        let met = match self {
            Self::Exactly(wanted) => (value - wanted).abs() < f64::EPSILON,
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
            Self::Below(limit) => value < limit,
        };
        if met { Verdict::Met } else { Verdict::Missed }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(value) => write!(f, "{}", number(*value)),
            Self::AtMost(value) => write!(f, "≤ {}", number(*value)),
            Self::AtLeast(value) => write!(f, "≥ {}", number(*value)),
            Self::Below(value) => write!(f, "< {}", number(*value)),
        }
    }
}

/// Repeated measurements of one value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub least: f64,
    pub median: f64,
    pub most: f64,
    pub samples: Vec<f64>,
}

impl Spread {
    /// `None` of nothing.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Some(Self { least, median: low.midpoint(high), most, samples: samples.to_vec() })
    }
}

/// One line of a table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub what: String,
    pub value: Option<f64>,
    pub unit: &'static str,
    pub spread: Option<Spread>,
    pub target: Option<Target>,
    pub verdict: Verdict,
    pub note: String,
}

impl Row {
    pub fn new(what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            what: what.into(),
            value: Some(value),
            unit,
            spread: None,
            target: None,
            verdict: Verdict::Informative,
            note: String::new(),
        }
    }

    /// Repeated runs: the value is their median.
    pub fn median(what: impl Into<String>, samples: &[f64], unit: &'static str) -> Self {
        Self::spread(what, samples, unit, |spread| spread.median)
    }

    /// Repeated runs: the value is the largest.
    pub fn worst(what: impl Into<String>, samples: &[f64], unit: &'static str) -> Self {
        Self::spread(what, samples, unit, |spread| spread.most)
    }

    fn spread(
        what: impl Into<String>,
        samples: &[f64],
        unit: &'static str,
        value: impl Fn(&Spread) -> f64,
    ) -> Self {
        let spread = Spread::of(samples);
        let Some(found) = &spread else { return Self::unknown(what, "it was never measured") };
        Self { value: Some(value(found)), spread, ..Self::new(what, 0.0, unit) }
    }

    pub fn unknown(what: impl Into<String>, why: impl Into<String>) -> Self {
        let mut row = Self::new(what, 0.0, "");
        (row.value, row.verdict, row.note) = (None, Verdict::Unknown, why.into());
        row
    }

    pub fn target(mut self, target: Target) -> Self {
        self.target = Some(target);
        if let Some(value) = self.value {
            self.verdict = target.judge(value);
        }
        self
    }

    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    fn cells(&self) -> [String; 5] {
        let unit = if self.unit.is_empty() { String::new() } else { format!(" {}", self.unit) };
        let value =
            self.value.map_or("unknown".to_owned(), |value| format!("{}{unit}", number(value)));
        let spread = self.spread.as_ref().filter(|spread| spread.samples.len() > 1);
        let spread = spread.map_or(String::new(), |spread| {
            let (least, median, most) =
                (number(spread.least), number(spread.median), number(spread.most));
            format!("{least} / {median} / {most} of {}", spread.samples.len())
        });
        let target = self.target.map_or(String::new(), |target| format!("{target}{unit}"));
        let verdict = match self.verdict {
            Verdict::Met => "met",
            Verdict::Missed => "MISSED",
            Verdict::Unknown => "UNKNOWN",
            Verdict::Informative => "",
        };
        let what = if self.note.is_empty() {
            self.what.clone()
        } else {
            format!("{} ({})", self.what, self.note)
        };
        [what, value, spread, target, verdict.to_owned()]
    }
}

/// What one bench found.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    pub name: &'static str,
    pub title: &'static str,
    /// What ran, and beside what.
    pub ran: &'static str,
    pub seconds: f64,
    pub rows: Vec<Row>,
}

impl Figure {
    pub fn verdicts(&self) -> impl Iterator<Item = Verdict> {
        self.rows.iter().map(|row| row.verdict)
    }
}

/// As a section of `BENCHMARKS.md`.
impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "### {}\n\n{}\n", self.title, self.ran)?;
        writeln!(f, "| figure | value | least / median / most | target | |")?;
        writeln!(f, "| --- | --- | --- | --- | --- |")?;
        for row in &self.rows {
            writeln!(f, "| {} |", row.cells().join(" | "))?;
        }
        Ok(())
    }
}

/// Whole numbers in groups of three, others with the digits that mean something.
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        _ if value.fract() == 0.0 => 0,
        large if large >= 100.0 => 0,
        middle if middle >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_once('.').map_or((&*text, None), |(a, b)| (a, Some(b)));
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        let left = whole.len() - at;
        if at > 0 && left.is_multiple_of(3) && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    rest.map_or(grouped.clone(), |rest| format!("{grouped}.{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_its_median_between_the_middle_two() {
        let spread = Spread::of(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((spread.least, spread.median, spread.most), (1.0, 2.5, 4.0));
        assert_eq!(Spread::of(&[7.0]).unwrap().median, 7.0);
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn a_row_is_judged_by_its_target() {
        let row = Row::worst("stall", &[5.0, 9.0, 7.0], "ms");
        assert_eq!(row.clone().target(Target::Below(9.0)).verdict, Verdict::Missed);
        assert_eq!(row.clone().target(Target::AtMost(9.0)).verdict, Verdict::Met);
        assert_eq!(row.verdict, Verdict::Informative);
    }

    #[test]
    fn what_was_not_measured_is_never_met() {
        let nothing = Row::worst("stall", &[], "ms").target(Target::AtMost(1.0));
        assert_eq!(nothing.verdict, Verdict::Unknown);
        assert_eq!(
            Row::unknown("stall", "why").target(Target::AtMost(1.0)).verdict,
            Verdict::Unknown
        );
    }

    #[test]
    fn numbers_are_for_people() {
        assert_eq!(number(1_234_567.0), "1,234,567");
        assert_eq!(number(-1_234.0), "-1,234");
        assert_eq!(number(-123.0), "-123");
        assert_eq!(number(12.345), "12.3");
        assert_eq!(number(0.456), "0.46");
        assert_eq!(number(1_234.56), "1,235");
    }
}
