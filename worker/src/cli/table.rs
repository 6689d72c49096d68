//! Aligned columns for people, with colour where it helps and the terminal takes it.

use std::io::IsTerminal as _;

/// What a cell tells beside its text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    Bad,
    /// Not important.
    Dim,
}

impl Tone {
    fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Good => Some("32"),
            Self::Warn => Some("33"),
            Self::Bad => Some("31"),
            Self::Dim => Some("2"),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    pub text: String,
    pub tone: Tone,
}

impl Cell {
    pub fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone }
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.to_string(), tone: Tone::Plain }
    }
}

/// Whether escape sequences may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Colour(bool);

impl Colour {
    pub const OFF: Self = Self(false);

    /// Only on a terminal that can, and not where NO_COLOR says no.
    pub fn of_stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self(std::io::stdout().is_terminal() && !refused && !dumb)
    }

    pub fn paint(self, text: &str, tone: Tone) -> String {
        match tone.code().filter(|_| self.0) {
            Some(code) => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            None => text.to_owned(),
        }
    }

    fn head(self, text: &str) -> String {
        if self.0 { format!("\u{1b}[1m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// Columns as wide as their widest cell; those of numbers alone stand right.
pub fn table(head: &[&str], rows: &[Vec<Cell>], colour: Colour) -> String {
    let column = |at: usize| rows.iter().filter_map(move |row| row.get(at));
    let widths: Vec<usize> = (0..head.len())
        .map(|at| {
            let cells = column(at).map(|cell| cell.text.chars().count());
            cells.chain([head[at].chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let numbers: Vec<bool> = (0..head.len())
        .map(|at| {
            let mut cells = column(at).map(|cell| cell.text.as_str()).filter(|text| *text != "-");
            cells.next().is_some_and(is_number) && cells.all(is_number)
        })
        .collect();
    let last = head.len().saturating_sub(1);
    let pad = |text: &str, at: usize| {
        let gap = " ".repeat(widths[at].saturating_sub(text.chars().count()));
        match (numbers[at], at == last) {
            (true, _) => (gap, String::new()),
            (false, true) => Default::default(),
            (false, false) => (String::new(), gap),
        }
    };
    let mut lines = Vec::with_capacity(rows.len() + 1);
    let titles = head.iter().enumerate().map(|(at, title)| {
        let (before, after) = pad(title, at);
        format!("{before}{}{after}", colour.head(title))
    });
    lines.push(titles.collect::<Vec<_>>().join("  "));
    for row in rows {
        let cells = row.iter().enumerate().map(|(at, cell)| {
            let (before, after) = pad(&cell.text, at);
            format!("{before}{}{after}", colour.paint(&cell.text, cell.tone))
        });
        lines.push(cells.collect::<Vec<_>>().join("  ").trim_end().to_owned());
    }
    lines.join("\n")
}

fn is_number(text: &str) -> bool {
    text.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Vec<Cell>> {
        vec![
            vec!["1".into(), "node-a".into(), Cell::toned("up", Tone::Good)],
            vec!["22".into(), "b".into(), Cell::toned("fenced", Tone::Bad)],
        ]
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_numbers_stand_right() {
        let text = table(&["ID", "NAME", "STATE"], &rows(), Colour::OFF);
        assert_eq!(text, "ID  NAME    STATE\n 1  node-a  up\n22  b       fenced");
    }

    #[test]
    fn colour_changes_no_width() {
        let text = table(&["ID", "NAME", "STATE"], &rows(), Colour(true));
        assert!(text.contains("\u{1b}[31mfenced\u{1b}[0m") && text.contains("\u{1b}[1mNAME"));
        let mut bare = String::new();
        let mut escape = false;
        for letter in text.chars() {
            match (letter, escape) {
                ('\u{1b}', _) => escape = true,
                ('m', true) => escape = false,
                (_, true) => {}
                (_, false) => bare.push(letter),
            }
        }
        assert_eq!(bare, table(&["ID", "NAME", "STATE"], &rows(), Colour::OFF));
    }

    #[test]
    fn a_table_without_rows_is_its_head() {
        assert_eq!(table(&["SHARD", "STATE"], &[], Colour::OFF), "SHARD  STATE");
    }
}
