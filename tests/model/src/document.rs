//! The tables of `docs/proofs.md`, as the runs themselves give them.

use std::fmt::Write;

use crate::report::{Hunted, Searched};

const BEGIN: &str = "<!-- the tables: UPDATE_DOCS=1 cargo test -p shoal-model -->\n";
const END: &str = "<!-- end of the tables -->\n";

pub fn tables(searched: &[Searched], hunted: &[Hunted]) -> String {
    let mut text = String::from(
        "| configuration | what it contains | ticks in L | states | depth | reached | seconds |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for one in searched {
        let ticks = u128::from(one.setup.lease_ms) / one.setup.tick.as_millis();
        let _ = writeln!(
            text,
            "| {} | {} | {ticks} | {} | {} | {} | {:.1} |",
            one.setup.name,
            one.setup.about,
            grouped(one.states),
            one.depth,
            one.reached,
            one.took.as_secs_f64(),
        );
    }
    text.push_str(
        "\n| rule left out | configuration | steps | what breaks | states | seconds |\n\
         | --- | --- | --- | --- | --- | --- |\n",
    );
    for one in hunted {
        let (steps, broken) = match &one.found {
            Some(found) => (found.length.to_string(), found.broken),
            None => ("not found".to_owned(), ""),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {steps} | {broken} | {} | {:.1} |",
            one.hunt.mutant.name(),
            one.hunt.setup.name,
            grouped(one.states),
            one.took.as_secs_f64(),
        );
    }
    text
}

/// The document with these tables in the place of its own; `None` without the marks.
pub fn with_tables(document: &str, tables: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{tables}{END}{after}"))
}

/// What two runs must agree in: all but the last column, which is time.
pub fn comparable(document: &str) -> String {
    let untimed = |line: &str| match line.trim_end().strip_suffix('|') {
        Some(row) => row.rsplit_once('|').map(|(kept, _)| kept.to_owned()).unwrap_or_default(),
        None => line.to_owned(),
    };
    document.lines().map(untimed).collect::<Vec<_>>().join("\n")
}

fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let groups = digits.as_bytes()[first..].chunks(3).map(String::from_utf8_lossy);
    let head = (first > 0).then(|| digits[..first].into());
    head.into_iter().chain(groups).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        let cases = [(7, "7"), (999, "999"), (1_000, "1,000"), (12_345_678, "12,345,678")];
        for (number, text) in cases {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn only_the_time_may_differ() {
        let document = format!("a\n{BEGIN}old\n{END}b\n");
        let with = |tables| with_tables(&document, tables).unwrap();
        assert_eq!(with("| x | 1.0 |\n"), format!("a\n{BEGIN}| x | 1.0 |\n{END}b\n"));
        assert_eq!(comparable(&with("| x | 1.0 |\n")), comparable(&with("| x | 2.5 |\n")));
        assert_ne!(comparable(&with("| x | 1.0 |\n")), comparable(&with("| y | 1.0 |\n")));
        assert_eq!(with_tables("no marks", "x"), None);
    }
}
