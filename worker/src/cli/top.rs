//! `shoal top`: the cluster as it changes, until Ctrl-C.
//!
//! Follows one node and goes on with another when that one is gone.

use std::{process::ExitCode, time::Duration};

use shoal_proto::shoal::admin::v1 as pb;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{self, Instant},
};
use tonic::Streaming;

use super::{
    Output, SUCCESS, Target,
    ask::{Dialer, told},
    events,
    figures::{Figures, Rates},
    json, say, show,
    view::{Scene, Screen},
};

/// Between two looks at the metrics of all nodes.
const FIGURES_EVERY: Duration = Duration::from_secs(1);
/// Pause after every known node was asked in vain.
const AGAIN: Duration = Duration::from_millis(500);
/// Lines of events that are kept.
const EVENTS: usize = 200;

#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Least pause between two states that are shown
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 250)]
    pub interval: u32,
    #[command(flatten)]
    pub target: Target,
}

pub async fn execute(args: &Args) -> anyhow::Result<ExitCode> {
    let (first, dialer) = (args.target.admin()?, args.target.dialer()?);
    let states = follow(&dialer, &first, args.interval).await?;
    let mut top = Top {
        dialer,
        admins: vec![first],
        interval: args.interval,
        output: args.target.output,
        begun: Instant::now(),
        screen: None,
        scene: Scene { title: "shoal top, Ctrl-C ends".to_owned(), ..Scene::default() },
        figures: Figures::default(),
    };
    if args.target.output == Output::Table {
        top.screen = Screen::open()?;
    }
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        ended = top.run(states) => ended?,
        stopped = tokio::signal::ctrl_c() => stopped?,
        _ = terminate.recv() => {}
    }
    Ok(SUCCESS)
}

async fn follow(
    dialer: &Dialer,
    admin: &str,
    interval: u32,
) -> anyhow::Result<Streaming<pb::StatusResponse>> {
    let request = pb::WatchStatusRequest { min_interval_ms: interval };
    let mut client = dialer.connect(admin).await?;
    Ok(client.watch_status(request).await.map_err(told)?.into_inner())
}

struct Top {
    dialer: Dialer,
    /// Admin ports of the nodes last seen; the first is the one followed.
    admins: Vec<String>,
    interval: u32,
    output: Output,
    begun: Instant,
    screen: Option<Screen>,
    scene: Scene,
    figures: Figures,
}

impl Top {
    /// For ever, or until nobody reads any more.
    async fn run(&mut self, mut states: Streaming<pb::StatusResponse>) -> anyhow::Result<()> {
        let mut figures = time::interval(FIGURES_EVERY);
        figures.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let mut resized = signal(SignalKind::window_change())?;
        loop {
            tokio::select! {
                state = states.message() => match state {
                    Ok(Some(state)) => self.show(state)?,
                    Ok(None) | Err(_) => states = self.find_another().await?,
                },
                _ = figures.tick(), if self.screen.is_some() => {
                    if let Some(status) = &self.scene.status {
                        self.scene.rates = self.figures.look(&status.nodes).await;
                        self.scene.load = load(&self.scene.rates);
                    }
                }
                _ = resized.recv() => {}
            }
            if let Some(screen) = &mut self.screen {
                screen.draw(&self.scene)?;
            }
        }
    }

    fn show(&mut self, state: pb::StatusResponse) -> anyhow::Result<()> {
        let told = match &self.scene.status {
            Some(before) => events::between(before, &state),
            None => Vec::new(),
        };
        for line in told {
            self.event(line)?;
        }
        match (self.output, &self.screen) {
            (Output::Json, _) => say(&json::status(&state).to_string())?,
            (Output::Table, None) => {
                let line = show::headline(&state);
                if self.scene.status.as_ref().map(show::headline).as_ref() != Some(&line) {
                    say(&line)?;
                }
            }
            (Output::Table, Some(_)) => {}
        }
        self.dialer.learn(&state.nodes);
        let others = state.nodes.iter().map(|node| node.admin_address.clone());
        let first = self.admins.drain(..).next();
        self.admins = first.into_iter().chain(others).collect();
        self.scene.status = Some(state);
        Ok(())
    }

    fn event(&mut self, line: String) -> anyhow::Result<()> {
        let line = format!("{:>7.1} s  {line}", self.begun.elapsed().as_secs_f64());
        if self.screen.is_none() && self.output == Output::Table {
            say(&line)?;
        }
        self.scene.lines.push(line);
        let surplus = self.scene.lines.len().saturating_sub(EVENTS);
        self.scene.lines.drain(..surplus);
        Ok(())
    }

    /// The followed node is gone: the next one that answers.
    async fn find_another(&mut self) -> anyhow::Result<Streaming<pb::StatusResponse>> {
        self.event(format!("{} does not answer any more", self.admins[0]))?;
        loop {
            if let Some(screen) = &mut self.screen {
                screen.draw(&self.scene)?;
            }
            for at in 0..self.admins.len() {
                if let Ok(states) = follow(&self.dialer, &self.admins[at], self.interval).await {
                    self.admins.swap(0, at);
                    self.event(format!("follows {}", self.admins[0]))?;
                    return Ok(states);
                }
            }
            time::sleep(AGAIN).await;
        }
    }
}

/// All nodes together, in a line.
fn load(rates: &std::collections::BTreeMap<u64, Rates>) -> String {
    let sum = |read: fn(&Rates) -> f64| rates.values().map(read).sum::<f64>();
    let calls = sum(|rates| rates.calls);
    let forwarded = sum(|rates| rates.calls * rates.forwarded_percent / 100.0);
    let share = if calls > 0.0 { forwarded * 100.0 / calls } else { 0.0 };
    format!(
        "{calls:.0} calls/s, {share:.0} % forwarded, {:.0} wait for a new owner, {:.1} failed/s, {:.0} MiB in all nodes",
        sum(|rates| rates.parked),
        sum(|rates| rates.failed),
        sum(|rates| rates.memory_bytes) / f64::from(1 << 20),
    )
}
