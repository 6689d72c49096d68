//! A screen that shows a cluster while it changes: full-screen on a terminal, lines elsewhere.
//!
//! The terminal keeps its usual mode, so that Ctrl-C stays a signal.

use std::io::{self, IsTerminal as _, Stdout};

use ratatui::{
    Frame, Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor, execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen},
    },
    layout::{Constraint, Layout, Rect},
    style::{Modifier, Style},
    text::Line,
    widgets::{Block, Paragraph, Row, Table},
};
use shoal_proto::shoal::admin::v1 as pb;

use super::show;

/// What the screen shows.
#[derive(Clone, Debug, Default)]
pub struct Scene {
    pub title: String,
    pub status: Option<pb::StatusResponse>,
    /// Below the nodes, newest last.
    pub lines: Vec<String>,
    /// At the bottom: load and failures.
    pub load: String,
}

/// The alternate screen of the terminal; gone when dropped.
pub struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    /// `None` where standard output is no terminal.
    pub fn open() -> io::Result<Option<Self>> {
        if !io::stdout().is_terminal() {
            return Ok(None);
        }
        execute!(io::stdout(), EnterAlternateScreen, cursor::Hide)?;
        Terminal::new(CrosstermBackend::new(io::stdout())).map(|terminal| Some(Self { terminal }))
    }

    pub fn draw(&mut self, scene: &Scene) -> io::Result<()> {
        self.terminal.draw(|frame| render(frame, scene)).map(|_| ())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nothing is left to do for a terminal that is gone.
        let _ = execute!(io::stdout(), LeaveAlternateScreen, cursor::Show);
    }
}

fn render(frame: &mut Frame<'_>, scene: &Scene) {
    let nodes = scene.status.as_ref().map_or(0, |status| status.nodes.len());
    let [head, middle, below, load] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(nodes as u16 + 3),
        Constraint::Min(3),
        Constraint::Length(3),
    ])
    .areas(frame.area());
    let headline = scene.status.as_ref().map(show::headline).unwrap_or_default();
    let head_block = Block::bordered().title(scene.title.as_str());
    frame.render_widget(Paragraph::new(headline).block(head_block), head);
    if let Some(status) = &scene.status {
        draw_nodes(frame, middle, status);
    }
    let room = usize::from(below.height.saturating_sub(2));
    let from = scene.lines.len().saturating_sub(room);
    let lines: Vec<_> = scene.lines[from..].iter().map(|line| Line::from(line.as_str())).collect();
    frame.render_widget(Paragraph::new(lines).block(Block::bordered()), below);
    let block = Block::bordered().title("load");
    frame.render_widget(Paragraph::new(scene.load.as_str()).block(block), load);
}

fn draw_nodes(frame: &mut Frame<'_>, area: Rect, status: &pb::StatusResponse) {
    /// Characters of the bar of a node that owns every shard.
    const BAR: usize = 32;
    let total = status.shards.unwrap_or_default().total.max(1) as usize;
    let rows = status.nodes.iter().map(|node| {
        let mut cells = show::node_row(node);
        cells.push("█".repeat((node.shards_owned as usize * BAR).div_ceil(total)));
        Row::new(cells)
    });
    let widths = [6, 16, 22, 14, 9, 8, 7, 9, BAR as u16].map(Constraint::Length);
    let head = Row::new(show::NODE_HEAD.iter().copied().chain([""]));
    let head = head.style(Style::new().add_modifier(Modifier::BOLD));
    let table = Table::new(rows, widths).header(head).block(Block::bordered().title("nodes"));
    frame.render_widget(table, area);
}

#[cfg(test)]
mod tests {
    use ratatui::backend::TestBackend;

    use super::*;

    #[test]
    fn a_scene_shows_nodes_steps_and_load() {
        let node = pb::Node { id: 3, name: "node-c".into(), shards_owned: 8, ..Default::default() };
        let shards = Some(pb::ShardCounts { total: 16, ..Default::default() });
        let scene = Scene {
            title: "demo".into(),
            status: Some(pb::StatusResponse { nodes: vec![node], shards, ..Default::default() }),
            lines: (0..40).map(|step| format!("step {step}")).collect(),
            load: "500 calls/s".into(),
        };
        let mut terminal = Terminal::new(TestBackend::new(140, 24)).unwrap();
        terminal.draw(|frame| render(frame, &scene)).unwrap();
        let shown = terminal.backend().to_string();
        for part in ["demo", "node-c", &"█".repeat(16), "step 39", "500 calls/s"] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
    }
}
