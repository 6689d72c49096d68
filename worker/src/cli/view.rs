//! A screen that shows a cluster while it changes: full-screen on a terminal, lines elsewhere.
//!
//! Keys are not echoed; Ctrl-C stays a signal. It fits itself to the terminal on each draw.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _, Stdout},
};

use ratatui::{
    Frame, Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor, execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen},
    },
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Text},
    widgets::{Block, Cell as Drawn, Paragraph, Row, Table, Wrap},
};
use shoal_proto::shoal::admin::v1 as pb;

use super::{
    figures::Rates,
    show,
    table::{Cell, Colour, Tone},
};
use crate::env::terminal::Quiet;

/// Below this width addresses are left out.
const WIDE: u16 = 100;

/// What the screen shows.
#[derive(Clone, Debug, Default)]
pub struct Scene {
    pub title: String,
    pub status: Option<pb::StatusResponse>,
    /// By node, where they are known.
    pub rates: BTreeMap<u64, Rates>,
    /// Below the nodes, newest last.
    pub lines: Vec<String>,
    /// At the bottom: load and failures.
    pub load: String,
}

/// The alternate screen of the terminal; gone when dropped.
pub struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    colour: bool,
    _quiet: Option<Quiet>,
}

impl Screen {
    /// `None` where standard output is no terminal.
    pub fn open() -> io::Result<Option<Self>> {
        if !io::stdout().is_terminal() {
            return Ok(None);
        }
        let quiet = Quiet::begin();
        execute!(io::stdout(), EnterAlternateScreen, cursor::Hide)?;
        let terminal = Terminal::new(CrosstermBackend::new(io::stdout()))?;
        let colour = Colour::of_stdout() != Colour::OFF;
        Ok(Some(Self { terminal, colour, _quiet: quiet }))
    }

    pub fn draw(&mut self, scene: &Scene) -> io::Result<()> {
        let colour = self.colour;
        self.terminal.draw(|frame| render(frame, scene, colour)).map(|_| ())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nothing is left to do for a terminal that is gone.
        let _ = execute!(io::stdout(), LeaveAlternateScreen, cursor::Show);
    }
}

fn render(frame: &mut Frame<'_>, scene: &Scene, colour: bool) {
    let nodes = scene.status.as_ref().map_or(0, |status| status.nodes.len());
    let headline = scene.status.as_ref().map(show::headline).unwrap_or_default();
    let inside = usize::from(frame.area().width.saturating_sub(2)).max(1);
    let lines = |text: &str| text.chars().count().div_ceil(inside).max(1) as u16;
    let [head, middle, below, load] = Layout::vertical([
        Constraint::Length(lines(&headline) + 2),
        Constraint::Length(nodes as u16 + 3),
        Constraint::Min(3),
        Constraint::Length(lines(&scene.load) + 2),
    ])
    .areas(frame.area());
    let block = Block::bordered().title(scene.title.as_str());
    let headline = Paragraph::new(headline).wrap(Wrap { trim: true });
    frame.render_widget(headline.block(block), head);
    if let Some(status) = &scene.status {
        draw_nodes(frame, middle, status, &scene.rates, colour);
    }
    let room = usize::from(below.height.saturating_sub(2));
    let from = scene.lines.len().saturating_sub(room);
    let events: Vec<_> = scene.lines[from..].iter().map(|line| Line::from(line.as_str())).collect();
    frame.render_widget(
        Paragraph::new(events).block(Block::bordered().title("what happens")),
        below,
    );
    let block = Block::bordered().title("load");
    let text = Paragraph::new(scene.load.as_str()).wrap(Wrap { trim: true });
    frame.render_widget(text.block(block), load);
}

/// One column: its title, whether it stands right, and its cell of a node.
struct Column {
    title: &'static str,
    right: bool,
    cell: fn(&pb::Node, Option<&Rates>) -> Cell,
}

fn columns(wide: bool, rates: bool) -> Vec<Column> {
    fn rate(rates: Option<&Rates>, read: impl Fn(&Rates) -> String) -> Cell {
        rates.map_or_else(|| "-".into(), |rates| read(rates).into())
    }
    let mut columns = vec![Column { title: "NAME", right: false, cell: |n, _| (&n.name).into() }];
    if wide {
        let cell = |node: &pb::Node, _: Option<&Rates>| (&node.node_address).into();
        columns.push(Column { title: "ADDRESS", right: false, cell });
    }
    columns.extend([
        Column { title: "STATE", right: false, cell: |node, _| show::state(node) },
        Column { title: "ROLE", right: false, cell: |node, _| (&node.role).into() },
        Column { title: "SHARDS", right: true, cell: |node, _| node.shards_owned.into() },
    ]);
    if rates {
        columns.extend([
            Column {
                title: "CALLS/S",
                right: true,
                cell: |_, rates| rate(rates, |rates| format!("{:.0}", rates.calls)),
            },
            Column {
                title: "FWD %",
                right: true,
                cell: |_, rates| rate(rates, |rates| format!("{:.0}", rates.forwarded_percent)),
            },
            Column {
                title: "CPU %",
                right: true,
                cell: |_, rates| rate(rates, |rates| format!("{:.0}", rates.cpu_percent)),
            },
        ]);
    }
    columns
}

fn draw_nodes(
    frame: &mut Frame<'_>,
    area: Rect,
    status: &pb::StatusResponse,
    rates: &BTreeMap<u64, Rates>,
    colour: bool,
) {
    let columns = columns(area.width >= WIDE, !rates.is_empty());
    let total = status.shards.unwrap_or_default().total.max(1);
    let cells: Vec<Vec<Cell>> = status
        .nodes
        .iter()
        .map(|node| columns.iter().map(|column| (column.cell)(node, rates.get(&node.id))).collect())
        .collect();
    let widths: Vec<u16> = columns
        .iter()
        .enumerate()
        .map(|(at, column)| {
            let longest = cells.iter().map(|row| row[at].text.chars().count()).max().unwrap_or(0);
            longest.max(column.title.len()) as u16
        })
        .collect();
    // Borders, and a space after each column.
    let taken: u16 = widths.iter().sum::<u16>() + widths.len() as u16 + 2;
    let bar = u32::from(area.width.saturating_sub(taken));
    let drawn = |cell: &Cell, right: bool| {
        let style = if colour { style(cell.tone) } else { Style::new() };
        let side = if right { Alignment::Right } else { Alignment::Left };
        Drawn::from(Text::from(cell.text.clone()).alignment(side)).style(style)
    };
    let rows = status.nodes.iter().zip(&cells).map(|(node, row)| {
        let shown = row.iter().zip(&columns).map(|(cell, column)| drawn(cell, column.right));
        let share = "█".repeat((node.shards_owned * bar).div_ceil(total) as usize);
        Row::new(shown.chain([Drawn::from(share)]))
    });
    let titles = columns.iter().map(|column| drawn(&column.title.into(), column.right));
    let head = Row::new(titles).style(Style::new().add_modifier(Modifier::BOLD));
    let widths = widths.iter().map(|width| Constraint::Length(*width));
    let table = Table::new(rows, widths.chain([Constraint::Fill(1)]));
    frame.render_widget(table.header(head).block(Block::bordered().title("nodes")), area);
}

fn style(tone: Tone) -> Style {
    match tone {
        Tone::Plain => Style::new(),
        Tone::Good => Style::new().fg(Color::Green),
        Tone::Warn => Style::new().fg(Color::Yellow),
        Tone::Bad => Style::new().fg(Color::Red),
        Tone::Dim => Style::new().add_modifier(Modifier::DIM),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::backend::TestBackend;

    use super::*;

    fn scene() -> Scene {
        let node = |id: u64, drain: &str| pb::Node {
            id,
            name: format!("node-{id}"),
            node_address: format!("localhost:1100{id}"),
            life: "up".into(),
            drain: drain.into(),
            role: "voter".into(),
            shards_owned: 8,
            ..pb::Node::default()
        };
        let shards = Some(pb::ShardCounts { total: 16, assigned: 16, ..Default::default() });
        let nodes = vec![node(3, "none"), node(4, "restart")];
        Scene {
            title: "demo".into(),
            status: Some(pb::StatusResponse { nodes, shards, ..Default::default() }),
            rates: BTreeMap::from([(3, Rates { calls: 512.4, ..Rates::default() })]),
            lines: (0..40).map(|step| format!("step {step}")).collect(),
            load: "500 calls/s".into(),
        }
    }

    fn shown(width: u16, height: u16, scene: &Scene) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| render(frame, scene, true)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn a_scene_shows_nodes_rates_steps_and_load() {
        let text = shown(120, 24, &scene());
        for part in ["demo", "node-3", "localhost:11003", "512", "step 39", "500 calls/s", "█████"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn a_narrow_terminal_shows_what_matters() {
        let text = shown(80, 24, &scene());
        for part in ["node-4", "up, drains for restart", "512", "16 owned", "step 39"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("localhost"), "{text}");
    }

    #[test]
    fn no_size_is_too_small() {
        for (width, height) in [(1, 1), (10, 3), (30, 5), (500, 4)] {
            shown(width, height, &scene());
        }
        shown(80, 24, &Scene::default());
    }
}
