//! Every decoder takes or refuses damaged bytes, and keeps its promises meanwhile.
//!
//! FUZZ_SECONDS: for each target; FUZZ_SEED: repeats a run; FUZZ_TARGET: only this one;
//! FUZZ_INPUT: only the bytes of this file.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    hint::black_box,
    path::PathBuf,
    process,
    sync::Mutex,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use shoal_fuzz::{
    Target, all, corpus,
    memory::{Counting, peak_of},
    run::{self, Report},
    seeds,
    targets::{Read, named},
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Time for one target, where they all fit into `SUITE`.
const EACH: Duration = Duration::from_secs(5);
/// Time for all of them, on as many threads as there are cores.
const SUITE: Duration = Duration::from_secs(20);

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = env::var(name).ok()?;
    Some(text.parse().ok().unwrap_or_else(|| panic!("{name} is {text:?}, which is no number")))
}

/// The targets of this run.
fn chosen() -> Vec<Target> {
    let Ok(name) = env::var("FUZZ_TARGET") else { return all() };
    let found: Vec<_> = all().into_iter().filter(|target| target.name == name).collect();
    assert!(!found.is_empty(), "FUZZ_TARGET is {name:?}, which is no target");
    found
}

fn span(targets: usize, threads: usize) -> Duration {
    match setting::<u64>("FUZZ_SECONDS") {
        Some(seconds) => Duration::from_secs(seconds),
        None => EACH.min(SUITE * threads as u32 / targets as u32),
    }
}

fn fresh_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_nanos() as u64 ^ u64::from(process::id()) << 40
}

/// Where a failing input is left for FUZZ_INPUT.
fn scratch(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// A run that found nothing shows only that it tried: enough inputs, taken and refused ones.
fn judge(target: &Target, report: &Report) -> Result<(), String> {
    let Report { tried, taken, refused, .. } = report;
    let name = target.name;
    if *tried < target.least {
        return Err(format!("{name}: {tried} inputs, fewer than {}", target.least));
    }
    if *taken == 0 || (*refused == 0 && !target.lenient) {
        return Err(format!("{name}: {taken} inputs taken, {refused} refused: it shows nothing"));
    }
    Ok(())
}

fn fuzz(target: &Target, seed: u64, span: Duration) -> Result<Report, String> {
    // Names the input's run should the process itself die of it.
    let note = scratch(&format!("running-{}", target.name));
    fs::write(&note, format!("FUZZ_SEED={seed} FUZZ_TARGET={}\n", target.name)).unwrap();
    let pool = corpus::pool(target.name).unwrap();
    let ran = run::run(target, pool, seed, span).map_err(|failure| {
        let input = scratch(&format!("failing-{}", target.name));
        fs::write(&input, &failure.input).unwrap();
        format!(
            "{failure}\n  this input alone: FUZZ_INPUT={} FUZZ_TARGET={} cargo test -p shoal-fuzz \
             --test decoders",
            input.display(),
            target.name
        )
    });
    fs::remove_file(note).unwrap();
    let report = ran?;
    judge(target, &report).map(|()| report)
}

/// One input from a file against one target.
fn replay(input: &str) {
    let bytes = fs::read(input).unwrap_or_else(|error| panic!("FUZZ_INPUT is {input:?}: {error}"));
    for target in chosen() {
        match run::once(&target, &bytes) {
            Ok(seen) => println!("{}: {seen:?}", target.name),
            Err(why) => panic!("{}: {why}", target.name),
        }
    }
}

#[test]
fn decoders_withstand_damaged_bytes() {
    if let Ok(input) = env::var("FUZZ_INPUT") {
        return replay(&input);
    }
    let targets = chosen();
    let threads = thread::available_parallelism().map_or(2, usize::from).min(targets.len());
    let (seed, span) =
        (setting("FUZZ_SEED").unwrap_or_else(fresh_seed), span(targets.len(), threads));
    println!("seed {seed}: {} targets, {span:?} each, on {threads} threads", targets.len());
    let (queue, results) = (Mutex::new(targets.into_iter()), Mutex::new(BTreeMap::new()));
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let Some(target) = queue.lock().unwrap().next() else { return };
                    let result = fuzz(&target, seed, span);
                    results.lock().unwrap().insert(target.name, result);
                }
            });
        }
    });
    let mut failures = Vec::new();
    println!(
        "{:24} {:>10} {:>10} {:>10} {:>6} {:>10} {:>6}",
        "target", "inputs", "taken", "refused", "kinds", "peak", "x"
    );
    for (name, result) in results.into_inner().unwrap() {
        match result {
            Ok(Report { tried, taken, refused, kinds, peak, spread }) => println!(
                "{name:24} {tried:>10} {taken:>10} {refused:>10} {kinds:>6} {:>10} {spread:>6}",
                peak.0
            ),
            Err(failure) => failures.push(failure),
        }
    }
    assert!(failures.is_empty(), "seed {seed}\n{}", failures.join("\n"));
}

/// Their own code made them: whatever is refused is a seed that no longer shows anything. What
/// was found once is refused or taken, and breaks no promise.
#[test]
fn real_encodings_are_taken_and_what_was_found_does_no_harm() {
    for target in all() {
        let real = seeds::of(target.name);
        let taken = real.iter().filter(|(name, bytes)| {
            let seen = run::once(&target, bytes);
            let seen = seen.unwrap_or_else(|why| panic!("{} {name}: {why}", target.name));
            seen.refusal.is_none()
        });
        assert!(taken.count() > 0, "{}: none of its seeds is taken", target.name);
        for (name, bytes) in corpus::read(target.name).unwrap() {
            if let Err(why) = run::once(&target, &bytes) {
                panic!("corpus/{}/{name}: {why}", target.name);
            }
        }
    }
}

#[test]
fn the_corpus_is_what_the_code_writes() {
    if env::var_os("UPDATE_CORPUS").is_some() {
        all().iter().for_each(|target| corpus::write(target.name).unwrap());
    }
    let behind: Vec<_> = all()
        .into_iter()
        .filter(|target| corpus::is_current(target.name).unwrap() == Some(false))
        .map(|target| target.name)
        .collect();
    assert!(
        behind.is_empty(),
        "the corpus of {behind:?} is behind: UPDATE_CORPUS=1 cargo test -p shoal-fuzz writes it"
    );
    let names: BTreeSet<_> = all().iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(names.len(), all().len(), "each target has a name of its own");
    let strays = fs::read_dir(corpus::directory("")).unwrap().filter_map(|entry| {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        (!names.contains(&name)).then_some(name)
    });
    assert_eq!(strays.collect::<Vec<_>>(), Vec::<String>::new(), "inputs of no target");
}

/// Decoders that break one promise each: the loop finds it, and says how to see it again.
#[test]
fn each_broken_promise_is_noticed() {
    const TOO_LONG: usize = 40;
    let cases: [(Read, &str); 6] = [
        (
            Read::Judged(|bytes| {
                assert!(bytes.len() < TOO_LONG, "out of room");
                Ok(())
            }),
            "it panicked: out of room",
        ),
        (
            Read::Judged(|_| {
                drop(black_box(Vec::<u8>::with_capacity(1 << 20)));
                Ok(())
            }),
            "bytes of memory at once",
        ),
        (Read::Judged(|_| Err("two\nlines".to_owned())), "more than one line"),
        (Read::Judged(|_| Err("words ".repeat(1_000))), "its error has 6000 bytes"),
        (Read::Again(|bytes| Ok([bytes, b"x"].concat())), "changes"),
        (
            Read::Again(|bytes| match bytes {
                [] => Err("it is empty".to_owned()),
                _ => Ok(Vec::new()),
            }),
            "it does not read: it is empty",
        ),
    ];
    for (read, words) in cases {
        let target = Target { read, ..named("quantity").unwrap() };
        let failure = run::run(&target, vec![b"1Gi".to_vec()], 7, Duration::from_millis(200));
        let failure = failure.expect_err(words);
        let text = failure.to_string();
        assert!(text.contains(words) && text.contains("FUZZ_SEED=7"), "{text}");
        if words.contains("panicked") {
            assert_eq!(failure.input.len(), TOO_LONG, "made as short as it can be: {text}");
        }
        assert!(run::once(&target, &failure.input).is_err(), "the input alone shows it: {text}");
    }
}

#[test]
fn a_seed_is_the_same_inputs_and_memory_is_counted() {
    let target = named("registry-delta").unwrap();
    let inputs = |seed| {
        let mut random = shoal_fuzz::random::Random::new(seed);
        let pool = seeds::of(target.name);
        let next = |_| {
            let (base, other) = (random.pick(&pool).unwrap(), &pool[0]);
            shoal_fuzz::mutate::next(&target, &base.1, &other.1, &mut random)
        };
        (0..200).map(next).collect::<Vec<_>>()
    };
    assert_eq!(inputs(7), inputs(7));
    assert_ne!(inputs(7), inputs(8));
    let (held, peak) = peak_of(|| vec![0_u8; 1 << 20]);
    assert!(peak >= held.len(), "the allocator of this binary counts: {peak}");
}
