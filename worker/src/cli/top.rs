//! `shoal top`: the cluster as it changes, until Ctrl-C.

use std::process::ExitCode;

use shoal_proto::shoal::admin::v1 as pb;

use super::{
    SUCCESS, Target, admin, show,
    view::{Scene, Screen},
};

pub async fn execute(target: &Target) -> anyhow::Result<ExitCode> {
    let mut client = admin::connect(&target.admin()?).await?;
    let request = pb::WatchStatusRequest { min_interval_ms: 0 };
    let mut states = client.watch_status(request).await.map_err(admin::told)?.into_inner();
    let mut screen = Screen::open()?;
    let mut scene = Scene { title: "shoal top, Ctrl-C ends".to_owned(), ..Scene::default() };
    loop {
        let state = tokio::select! {
            state = states.message() => state.map_err(admin::told)?,
            stopped = tokio::signal::ctrl_c() => {
                stopped?;
                return Ok(SUCCESS);
            }
        };
        let Some(state) = state else { return Ok(SUCCESS) };
        match &mut screen {
            Some(screen) => {
                scene.lines =
                    show::shards(&state.moving, &state.nodes).lines().map(str::to_owned).collect();
                scene.load = state.settings.as_ref().map(show::settings).unwrap_or_default();
                scene.status = Some(state);
                screen.draw(&scene)?;
            }
            None => println!("{}", show::headline(&state)),
        }
    }
}
