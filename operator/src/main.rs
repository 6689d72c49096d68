//! The `shoal-operator` command: parses, runs, maps the end to an exit code.

use std::{process::ExitCode, sync::Arc};

use clap::Parser as _;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client,
    runtime::events::{Recorder, Reporter},
};
use shoal_operator::{
    cli::{Cli, Command, LogFormat, Settings},
    controller::{self, Context},
    crd::definition,
    elector::{self, Elector},
    telemetry::{self, Metrics, Progress},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

/// Setting that cannot be used, as the worker has it.
const EXIT_SETTING: u8 = 64;
/// Leadership was lost, or another operator acts: the next process begins anew.
const EXIT_DEPOSED: u8 = 1;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Crd => print_crd(),
        Command::Run(settings) => run(settings),
    }
}

fn print_crd() -> ExitCode {
    match definition::yaml() {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("shoal-operator: the definition cannot be printed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(settings: Settings) -> ExitCode {
    let filter = match EnvFilter::try_new(&settings.log_level) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("shoal-operator: LOG_LEVEL: {error}; set error, warn, info, debug or trace");
            return ExitCode::from(EXIT_SETTING);
        }
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match settings.log_format {
        LogFormat::Json => log.json().flatten_event(true).init(),
        LogFormat::Text => log.init(),
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build();
    let ended = runtime
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(operate(settings)));
    match ended {
        Ok(code) => code,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn operate(settings: Settings) -> anyhow::Result<ExitCode> {
    let mut config = kube::Config::infer().await?;
    // A pass is tried again as a whole, with a pause that grows.
    config.default_retry = false;
    let client = Client::try_from(config)?;
    let (metrics, progress) = (Metrics::default(), Progress::default());
    let served = telemetry::serve(settings.http_address, metrics.clone(), progress.clone());
    let served = tokio::spawn(served);
    // A process that restarts must not take itself for the holder.
    let identity = format!("{}_{:016x}", settings.pod_name, rand::random::<u64>());
    let leases = Api::<Lease>::namespaced(client.clone(), &settings.pod_namespace);
    let elector = Elector::new(leases, elector::Config::new(&settings.lease_name, identity));
    let mut leads = elector.leads();
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let (stop, stopping) = tokio::sync::oneshot::channel::<()>();
    let election = tokio::spawn(elector.run(async move {
        let _ = stopping.await;
    }));
    let fatal = watch::Sender::new(None);
    let acting = act(client, &settings, metrics, progress, &fatal, &mut leads);
    let mut last_words = fatal.subscribe();
    let code = tokio::select! {
        () = acting => {
            info!("leads no more, and ends");
            ExitCode::from(EXIT_DEPOSED)
        }
        words = last_words.wait_for(Option::is_some) => {
            let words = words.ok().and_then(|words| words.clone()).unwrap_or_default();
            error!("{words}");
            ExitCode::from(EXIT_DEPOSED)
        }
        ended = served => {
            anyhow::bail!("HTTP_ADDRESS {}: {}", settings.http_address, match ended {
                Ok(Ok(())) => "ended".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            });
        }
        _ = terminated.recv() => ExitCode::SUCCESS,
        _ = interrupted.recv() => ExitCode::SUCCESS,
    };
    // What was under way is dropped; the Lease is given up so that another takes over at once.
    drop(stop);
    let _ = election.await;
    Ok(code)
}

/// Acts while this process leads; ends when it leads no more.
async fn act(
    client: Client,
    settings: &Settings,
    metrics: Metrics,
    progress: Progress,
    fatal: &watch::Sender<Option<String>>,
    leads: &mut watch::Receiver<bool>,
) {
    // The elector is gone only together with this process.
    let _ = leads.wait_for(|leads| *leads).await;
    metrics.leads.set(1);
    let reporter = Reporter {
        controller: "shoal-operator".to_owned(),
        instance: Some(settings.pod_name.clone()),
    };
    let recorder = Recorder::new(client.clone(), reporter);
    let context = Context::new(client, recorder, metrics, progress, fatal.clone());
    let namespaces = settings.namespaces();
    tokio::select! {
        () = controller::run(Arc::new(context), &namespaces) => {}
        _ = leads.wait_for(|leads| !*leads) => {}
    }
}
