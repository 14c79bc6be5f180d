//! `tamp lab …`: experiments from question to verdict. The crate `lab` measures and decides; this file finds its
//! folders, holds the machine's lock for it and prints.

mod live;
mod print;
mod template;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;
use tamp_lab::bench::{Bench, Known, Spawner};
use tamp_lab::ledger::{Body, Ledger, Row};
use tamp_lab::others::Outside;
use tamp_lab::record::Store;
use tamp_lab::replay::replay;
use tamp_lab::run::{Ask, Lab, LabError, Outcome};
use tamp_lab::spec::Frozen;
use tamp_lab::{lock, report, stats, why};

use crate::args::{LabArgs, LabCommand, LabCorrectArgs, LabRunArgs};
use crate::cmd::Ctx;
use crate::fail::{At, Code, Done, Fail};
use crate::out::note;
use crate::say;

/// Runs a command of the lab.
pub fn run(ctx: &Ctx, a: &LabArgs) -> Done {
    let home = Home::new(ctx, a.ledger.as_deref());
    match &a.command {
        LabCommand::New(n) => template::write(ctx, n),
        LabCommand::Run(r) => measure(ctx, &home, r),
        LabCommand::Queue(_) | LabCommand::Blockers(_) => Err(Fail::usage("not built")),
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
    /// built revisions
    pub cache: PathBuf,
}

impl Home {
    fn new(ctx: &Ctx, folder: Option<&Path>) -> Home {
        let here = PathBuf::from("lab");
        let data = || ctx.env.data_dir.as_ref().map_or_else(|| here.clone(), |d| d.join("lab"));
        let folder =
            folder.map_or_else(|| if here.is_dir() { here.clone() } else { data() }, Path::to_path_buf);
        let cache = ctx.env.cache_dir.clone().unwrap_or_else(std::env::temp_dir).join("lab");
        Home { ledger: Ledger::at(&folder), store: Store::new(&folder), root: PathBuf::from("."), cache }
    }

    /// Every row, verified.
    pub fn rows(&self) -> Done<Vec<Row>> {
        Ok(self.ledger.rows()?)
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// Holds the machine for a whole run, and hands a bench to `work`.
fn with_bench<T>(
    ctx: &Ctx,
    home: &Home,
    engines: Option<&Path>,
    stop: &Arc<AtomicBool>,
    work: impl FnOnce(&mut dyn Bench) -> Done<T>,
) -> Done<T> {
    let tamp =
        std::env::current_exe().map_err(|e| Fail::new(Code::Other, format!("where is tamp itself? {e}")))?;
    let mut said = false;
    let waiting = &mut |holder: Option<&lock::Holder>| {
        if !std::mem::replace(&mut said, true) {
            let who = holder.map_or("another process".to_string(), ToString::to_string);
            note(format_args!("waiting: the machine is being measured by {who}"));
        }
        !stop.load(Ordering::Relaxed)
    };
    let Some(_lock) = lock::take(&ctx.env.lock, "tamp lab run", waiting)? else {
        return Err(Fail::interrupted());
    };
    let mut build = |_: &tamp_lab::spec::Arm| Err("revisions cannot be built".to_string());
    let file = engines.map_or_else(|| home.root.join("lab/engines.toml"), Path::to_path_buf);
    let mut others = Outside::new(&file, &crate::env::Env::named, &mut build)?;
    let mut bench = Spawner {
        tamp,
        others: &mut others,
        stop: stop.clone(),
        locked: true,
        root: home.root.clone(),
        known: Known::default(),
    };
    work(&mut bench)
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
    let spec = Frozen::read(&a.file)?;
    note(format_args!("{}  {}", spec.short(), spec.spec.title));
    let outcome = with_bench(ctx, home, a.engines.as_deref(), &stop, |bench| {
        let mut live = live::Live::new(ctx.ui, &spec);
        let mut lab = Lab {
            ledger: home.ledger.clone(),
            store: home.store.clone(),
            bench,
            watch: &mut |e| live.show(&e),
            stop: &|| stop.load(Ordering::Relaxed),
        };
        let ask = Ask { again: a.again, file: a.file.display().to_string(), ..Ask::default() };
        match lab.run(&spec, &ask) {
            Err(LabError::Stopped(done, of)) => {
                Err(Fail::new(Code::Interrupted, LabError::Stopped(done, of)))
            }
            other => Ok(other?),
        }
    })?;
    match outcome {
        Outcome::Answered(row, why) => {
            note(format_args!("{why}; row {}. --again measures it anew", &row.hash[..12]));
            print::show(ctx, &home.rows()?, print::subject(&row))
        }
        Outcome::Decided(_) => print::show(ctx, &home.rows()?, spec.short()),
    }
}

fn look_up(ctx: &Ctx, home: &Home, tag: &str) -> Done {
    let rows = home.rows()?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut build = |_: &tamp_lab::spec::Arm| Err(String::new());
    let mut others = Outside::new(Path::new(""), &|_| None, &mut build)?;
    let tamp = std::env::current_exe().map_err(|e| Fail::new(Code::Other, e))?;
    let mut bench = Spawner {
        tamp,
        others: &mut others,
        stop,
        locked: false,
        root: home.root.clone(),
        known: Known::default(),
    };
    let specs = print::opened(&rows);
    let known = why::look_up(&rows, tag, &mut |spec, name| {
        specs.get(spec).map(|s| bench.dependency(s, name)).unwrap_or_default()
    });
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
    let added = text.len();
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
