//! `tamp lab …`: experiments from question to verdict. The crate `lab` measures and decides; this file finds its
//! folders, holds the machine's lock for it and prints.

mod live;
mod print;
mod template;
mod today;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use tamp_base::clock::now_ms;
use tamp_lab::bench::{Bench, Known, Spawner};
use tamp_lab::code::{self, Code as Sources};
use tamp_lab::ledger::{Body, Ledger, Row};
use tamp_lab::others::Outside;
use tamp_lab::program::{self, Queue};
use tamp_lab::record::Store;
use tamp_lab::replay::replay;
use tamp_lab::run::{Ask, Lab, LabError, Outcome};
use tamp_lab::spec::Frozen;
use tamp_lab::{lock, report, stats, why};

use crate::args::{LabArgs, LabBlockersArgs, LabCommand, LabCorrectArgs, LabQueueArgs, LabRunArgs};
use crate::cmd::{Ctx, machine};
use crate::fail::{At, Code, Done, Fail};
use crate::out::note;
use crate::say;

/// Runs a command of the lab.
pub fn run(ctx: &Ctx, a: &LabArgs) -> Done {
    let home = Home::new(ctx, a.ledger.as_deref());
    match &a.command {
        LabCommand::New(n) => template::write(ctx, n),
        LabCommand::Run(r) => measure(ctx, &home, r),
        LabCommand::Queue(q) => queue(ctx, &home, q),
        LabCommand::Blockers(b) => blockers(ctx, &home, b),
        LabCommand::List => print::list(ctx, &home.rows()?),
        LabCommand::Show { id } => print::show(ctx, &home.rows()?, id),
        LabCommand::Why { tag } => look_up(ctx, &home, tag),
        LabCommand::Replay { id } => again(ctx, &home, id.as_deref()),
        LabCommand::Import { file } => import(ctx, &home, file),
        LabCommand::Correct(c) => correct(&home, c),
        LabCommand::Report { out } => page(ctx, &home, out),
        LabCommand::SelfTest { full, seed } => self_test(ctx, *full, *seed),
    }
}

/// Where ledger, records and sources are.
pub struct Home {
    /// the ledger
    pub ledger: Ledger,
    /// its records
    pub store: Store,
    /// the current folder: specs, engines and dependencies are named from it
    pub root: PathBuf,
    /// of the ledger
    pub folder: PathBuf,
    /// built revisions
    pub cache: PathBuf,
}

impl Home {
    pub(crate) fn new(ctx: &Ctx, folder: Option<&Path>) -> Home {
        let here = PathBuf::from("lab");
        let data = || ctx.env.data_dir.as_ref().map_or_else(|| here.clone(), |d| d.join("lab"));
        let folder =
            folder.map_or_else(|| if here.is_dir() { here.clone() } else { data() }, Path::to_path_buf);
        let cache = ctx.env.cache_dir.clone().unwrap_or_else(std::env::temp_dir).join("lab");
        Home {
            ledger: Ledger::at(&folder),
            store: Store::new(&folder),
            root: PathBuf::from("."),
            folder,
            cache,
        }
    }

    /// Every row, verified.
    pub fn rows(&self) -> Done<Vec<Row>> {
        let torn = self.ledger.torn()?;
        if torn > 0 {
            note(tamp_lab::run::torn_words(torn));
        }
        Ok(self.ledger.rows()?)
    }
}

/// Hands a bench to `work`; `locked` when this process holds the machine.
fn with_bench<T>(
    home: &Home,
    engines: Option<&Path>,
    stop: &Arc<AtomicBool>,
    locked: bool,
    work: impl FnOnce(&mut dyn Bench) -> Done<T>,
) -> Done<T> {
    let tamp =
        std::env::current_exe().map_err(|e| Fail::new(Code::Other, format!("where is tamp itself? {e}")))?;
    let mut last = String::new();
    let mut build = |source: &Path, target: &Path| {
        code::cargo(source, target, &mut |line| {
            if line != last {
                note(line);
                last = line.to_string();
            }
        })
    };
    let mut code = Sources::new(&home.root, &home.cache, &mut build).except(&home.folder);
    if env!("TAMP_DIRTY") != "true" {
        code = code.own(env!("TAMP_REVISION"), &tamp);
    }
    let file = engines.map_or_else(|| home.root.join("lab/engines.toml"), Path::to_path_buf);
    let mut others = Outside::new(&file, &crate::env::Env::named, code)?;
    let mut bench = Spawner {
        tamp,
        others: &mut others,
        stop: stop.clone(),
        locked,
        root: home.root.clone(),
        known: Known::default(),
    };
    work(&mut bench)
}

/// Waits for the machine.
fn alone(ctx: &Ctx, stop: &AtomicBool) -> Done<lock::MachineLock> {
    let stop = || stop.load(Ordering::Relaxed);
    machine::wait_for(&ctx.env.lock, "tamp lab run", &stop)?.ok_or_else(Fail::interrupted)
}

fn measure(ctx: &Ctx, home: &Home, a: &LabRunArgs) -> Done {
    let stop = Arc::new(AtomicBool::new(false));
    let told = stop.clone();
    // Twice ends at once; the ledger is whole at any moment.
    let _ = ctrlc::set_handler(move || {
        if told.swap(true, Ordering::Relaxed) {
            std::process::exit(Code::Interrupted as i32);
        }
    });
    let text = std::fs::read_to_string(&a.file).at("read", &a.file)?;
    let ask = Ask { again: a.again, file: a.file.display().to_string(), ..Ask::default() };
    if program::is_program(&text) {
        return whole_program(ctx, home, a, &ask, &stop);
    }
    let spec = Frozen::read(&a.file)?;
    if let Some(field) = template::untouched(&spec.spec) {
        return Err(Fail::usage(format!("{}: {field} still holds the template's words", a.file.display()))
            .hint("say what you believe before you measure"));
    }
    note(format_args!("{}  {}", spec.short(), spec.spec.title));
    let _machine = alone(ctx, &stop)?;
    let outcome = with_bench(home, a.engines.as_deref(), &stop, true, |bench| {
        let mut live = live::Live::new(ctx.ui, &spec);
        let mut watch = |e: tamp_lab::run::Event<'_>| live.show(&e);
        lab(home, bench, &mut watch, &|| stop.load(Ordering::Relaxed)).run(&spec, &ask).map_err(stopped)
    })?;
    match outcome {
        Outcome::Answered(row, why) => {
            note(format_args!("{why}; row {}. --again measures it anew", &row.hash[..12]));
            print::show(ctx, &home.rows()?, print::subject(&row))
        }
        Outcome::Decided(_) => print::show(ctx, &home.rows()?, spec.short()),
    }
}

fn lab<'a>(
    home: &Home,
    bench: &'a mut dyn Bench,
    watch: &'a mut dyn FnMut(tamp_lab::run::Event<'_>),
    stop: &'a dyn Fn() -> bool,
) -> Lab<'a> {
    Lab { ledger: home.ledger.clone(), store: home.store.clone(), bench, watch, stop }
}

/// A stop is the user's, whatever came of it.
fn stopped(e: LabError) -> Fail {
    match e {
        LabError::Stopped(..) => Fail::new(Code::Interrupted, e),
        other => other.into(),
    }
}

fn whole_program(ctx: &Ctx, home: &Home, a: &LabRunArgs, ask: &Ask, stop: &Arc<AtomicBool>) -> Done {
    let queue = Queue::read(&a.file)?;
    note(format_args!("{}  {}: {} questions", queue.short(), queue.program.title, queue.specs.len()));
    let _machine = alone(ctx, stop)?;
    let live = std::cell::RefCell::new(None::<live::Live>);
    let closed = with_bench(home, a.engines.as_deref(), stop, true, |bench| {
        let mut watch = |e: tamp_lab::run::Event<'_>| {
            if let Some(l) = live.borrow_mut().as_mut() {
                l.show(&e);
            }
        };
        let mut each = |n: usize, spec: &Frozen| {
            note(format_args!("{}. {}  {}", n + 1, spec.short(), spec.spec.title));
            *live.borrow_mut() = Some(live::Live::new(ctx.ui, spec));
        };
        lab(home, bench, &mut watch, &|| stop.load(Ordering::Relaxed))
            .run_program(&queue, ask, &mut each)
            .map_err(stopped)
    })?;
    print::summary(ctx, &closed)
}

fn queue(ctx: &Ctx, home: &Home, a: &LabQueueArgs) -> Done {
    let specs = specs(a.what.as_deref())?;
    let rows = home.rows()?;
    let stop = Arc::new(AtomicBool::new(false));
    let all = with_bench(home, None, &stop, false, |bench| {
        let mut known = std::collections::BTreeMap::new();
        let mut hash = |_: &Frozen, name: &str| {
            known.entry(name.to_string()).or_insert_with(|| bench.dependency(name)).clone()
        };
        Ok(tamp_lab::queue::queue(&rows, &specs, &mut hash))
    })?;
    print::queue(ctx, &all, a.audit)
}

fn blockers(ctx: &Ctx, home: &Home, a: &LabBlockersArgs) -> Done {
    let all = tamp_lab::queue::blockers(&home.rows()?, &specs(a.what.as_deref())?);
    print::blockers(ctx, &all)
}

/// Specs of a program, or of a folder and the folders in it.
fn specs(what: Option<&Path>) -> Done<Vec<(String, Frozen)>> {
    let what = what.unwrap_or(Path::new("lab/specs"));
    if what.is_file() {
        let text = std::fs::read_to_string(what).at("read", what)?;
        return match program::is_program(&text) {
            true => Ok(Queue::read(what)?.specs),
            false => Ok(vec![(what.display().to_string(), Frozen::read(what)?)]),
        };
    }
    let (mut folders, mut files) = (vec![what.to_path_buf()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).at("read", &folder)?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "toml") {
                files.push(path);
            }
        }
    }
    files.sort();
    // One bad file must not hide the others.
    let read = |f: PathBuf| match Frozen::read(&f) {
        Ok(spec) => Some((f.display().to_string(), spec)),
        Err(e) => {
            note(e);
            None
        }
    };
    Ok(files.into_iter().filter_map(read).collect())
}

fn look_up(ctx: &Ctx, home: &Home, tag: &str) -> Done {
    let index = why::Index::open(&home.ledger)?;
    let stop = Arc::new(AtomicBool::new(false));
    let known = with_bench(home, None, &stop, false, |bench| {
        let mut today = today::Today::open(ctx, &home.cache);
        Ok(index.look_up(tag, &mut |name| today.of(name).unwrap_or_else(|| bench.dependency(name))))
    })?;
    if ctx.json {
        return ctx.json(&json!({ "kind": "tamp.lab.why", "v": 1, "known": known }));
    }
    print::known(&known, tag);
    Ok(())
}

fn again(ctx: &Ctx, home: &Home, id: Option<&str>) -> Done {
    let rows = home.rows()?;
    let (mut all, mut other) = (Vec::new(), 0);
    for row in &rows {
        let Body::Decided { spec, .. } = &row.body else { continue };
        if id.is_some_and(|id| !spec.starts_with(id)) {
            continue;
        }
        let Some(r) = replay(&rows, &home.store, row)? else { continue };
        if !ctx.json {
            let word = if r.identical { "identical" } else { "DIFFERENT" };
            say!("row {:>4}  {}  {:<14} {:<14} {word}", r.n, &r.spec[..12], r.candidate, r.verdict);
            for d in r.differences.iter().take(5) {
                say!("          differs in {d}");
            }
        }
        other += usize::from(!r.identical);
        all.push(r);
    }
    if all.is_empty() {
        return Err(Fail::usage(match id {
            Some(id) => format!("no decided row of a spec that begins with {id}"),
            None => format!("{} holds no decided row", home.ledger.path().display()),
        }));
    }
    ctx.json(&json!({ "kind": "tamp.lab.replay", "v": 1, "rows": all }))?;
    if other > 0 {
        return Err(Fail::new(
            Code::Other,
            format!("{other} of {} verdicts do not follow from their records", all.len()),
        ));
    }
    if !ctx.json {
        say!("{} verdicts worked out again from their records, all identical", all.len());
    }
    Ok(())
}

fn import(ctx: &Ctx, home: &Home, file: &Path) -> Done {
    let text = std::fs::read_to_string(file).at("read", file)?;
    let added = why::import(&home.ledger, &text, &file.display().to_string(), now_ms())
        .map_err(|e| Fail::new(Code::Usage, e))?;
    ctx.json(&json!({ "kind": "tamp.lab.import", "v": 1, "added": added }))?;
    if !ctx.json {
        say!("{added} priors added; the others were known");
    }
    Ok(())
}

fn correct(home: &Home, c: &LabCorrectArgs) -> Done {
    let rows = home.rows()?;
    let mut found = rows.iter().filter(|r| r.hash.starts_with(&c.row));
    let (Some(row), None) = (found.next(), found.next()) else {
        return Err(Fail::usage(format!("{:?} is not the beginning of exactly one row's hash", c.row)));
    };
    let (of, note) = (row.hash.clone(), c.note.clone());
    let body = if c.supersede { Body::Superseded { of, reason: note } } else { Body::Corrected { of, note } };
    let row = home.ledger.add(now_ms(), body)?;
    say!("row {} {}", row.n, row.hash);
    Ok(())
}

fn page(ctx: &Ctx, home: &Home, out: &Path) -> Done {
    let html = report::html(&home.rows()?, &home.store, now_ms())?;
    std::fs::write(out, &html).at("write", out)?;
    ctx.json(&json!({ "kind": "tamp.lab.report", "v": 1, "file": out, "bytes": html.len() }))?;
    if !ctx.json {
        say!("{} ({})", out.display(), crate::out::human_bytes(html.len() as u64));
    }
    Ok(())
}

fn self_test(ctx: &Ctx, full: bool, seed: u64) -> Done {
    let r = stats::selftest::run(full, seed);
    if ctx.json {
        ctx.json(&r)?;
    } else {
        say!("{r}");
    }
    if r.pass { Ok(()) } else { Err(Fail::new(Code::Other, "the lab's statistics miss their bars")) }
}
