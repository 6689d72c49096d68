//! Tells the demo: a live view on a terminal, else a line per step and per second.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use shoal_proto::shoal::admin::v1 as pb;
use tokio::time::Instant;

use crate::cli::{
    bench::Progress,
    view::{Scene, Screen},
};

/// Shared by the story and the load.
#[derive(Clone)]
pub struct Teller {
    begun: Instant,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    screen: Option<Screen>,
    scene: Scene,
}

impl Teller {
    /// Lines on standard error where standard output is no terminal, or `plain` is asked for.
    pub fn open(plain: bool) -> std::io::Result<Self> {
        let screen = if plain { None } else { Screen::open()? };
        let scene = Scene { title: "shoal dev".to_owned(), ..Scene::default() };
        let inner = Arc::new(Mutex::new(Inner { screen, scene }));
        Ok(Self { begun: Instant::now(), inner })
    }

    fn stamp(&self) -> String {
        let elapsed: Duration = self.begun.elapsed();
        format!("{:>5.1} s", elapsed.as_secs_f64())
    }

    /// Gives the terminal back, with the steps told so far; the rest is told in lines.
    pub fn close(&self) {
        let mut inner = self.inner.lock();
        if inner.screen.take().is_some() {
            for line in &inner.scene.lines {
                eprintln!("{line}");
            }
        }
    }

    pub fn say(&self, line: String) {
        let line = format!("{}  {line}", self.stamp());
        let mut inner = self.inner.lock();
        if inner.screen.is_none() {
            eprintln!("{line}");
        }
        inner.scene.lines.push(line);
        inner.draw();
    }

    pub fn load(&self, progress: &Progress) {
        let mut inner = self.inner.lock();
        inner.scene.load = progress.to_string();
        if inner.screen.is_none() {
            eprintln!("{}  {}", self.stamp(), inner.scene.load);
        }
        inner.draw();
    }

    pub fn status(&self, status: pb::StatusResponse) {
        let mut inner = self.inner.lock();
        inner.scene.status = Some(status);
        inner.draw();
    }
}

impl Inner {
    fn draw(&mut self) {
        if let Some(screen) = &mut self.screen {
            // A terminal that went away does not end the story.
            let _ = screen.draw(&self.scene);
        }
    }
}
