//! One simulated machine: the process of a node, in a runtime that the world drives.

use std::{future::Future, pin::Pin, time::Duration};

use shoal_worker::env::sim::{self, Crash, Place};
use tokio::{
    runtime::{Builder, Runtime},
    task::{JoinHandle, LocalSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// How a process ended: nothing, or one line.
pub type Ended = Result<(), String>;

/// A process and the machine under it.
pub struct Machine {
    pub place: Place,
    running: Option<Running>,
    /// No code of it runs until then; its clocks go on.
    pub paused_until: Option<Duration>,
}

struct Running {
    runtime: Runtime,
    tasks: LocalSet,
    main: JoinHandle<Ended>,
    stop: CancellationToken,
    /// The runtime's time when true time was `began`.
    base: Instant,
    began: Duration,
}

/// What a process runs, given what tells it to stop.
pub type Program = Box<dyn FnOnce(CancellationToken) -> Pin<Box<dyn Future<Output = Ended>>>>;

impl Machine {
    pub fn new(place: Place) -> Self {
        Self { place, running: None, paused_until: None }
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    pub fn start(&mut self, program: Program) -> std::io::Result<()> {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build()?;
        sim::wires(|wires, _| wires.power(self.place, true));
        let (tasks, stop) = (LocalSet::new(), CancellationToken::new());
        let told = stop.clone();
        let (main, base) = sim::on(self.place, || {
            runtime.block_on(tasks.run_until(async {
                // The runtime counts in whole milliseconds from its own begin.
                tokio::time::sleep(Duration::from_millis(1)).await;
                (tokio::task::spawn_local(program(told)), Instant::now())
            }))
        });
        self.running = Some(Running { runtime, tasks, main, stop, base, began: sim::now() });
        Ok(())
    }

    /// Lets the process run up to the present; how it ended, if it did.
    pub fn run(&mut self) -> Option<Ended> {
        let now = sim::now();
        if self.paused_until.is_some_and(|until| now < until) {
            return None;
        }
        self.paused_until = None;
        let running = self.running.as_mut()?;
        let until = running.base + (now - running.began);
        sim::on(self.place, || {
            let Running { runtime, tasks, .. } = running;
            runtime.block_on(tasks.run_until(async { tokio::time::sleep_until(until).await }));
        });
        if !running.main.is_finished() {
            return None;
        }
        let Running { runtime, tasks, main, .. } = self.running.take()?;
        let ended = sim::on(self.place, || {
            let ended = runtime.block_on(main);
            drop(tasks);
            drop(runtime);
            ended
        });
        sim::crash(self.place, Crash::Process);
        Some(ended.unwrap_or_else(|error| Err(format!("panicked: {error}"))))
    }

    /// As SIGTERM does.
    pub fn stop(&self) {
        if let Some(running) = &self.running {
            running.stop.cancel();
        }
    }

    /// The process is gone between two instants.
    pub fn crash(&mut self, how: Crash) {
        self.paused_until = None;
        sim::doom(self.place);
        if let Some(running) = self.running.take() {
            sim::on(self.place, || {
                drop(running.tasks);
                drop(running.runtime);
            });
        }
        sim::crash(self.place, how);
    }
}
