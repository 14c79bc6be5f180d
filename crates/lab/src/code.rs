//! Revisions as arms, and code candidates: built apart from the tree somebody works in, kept as a commit on a branch of
//! their own, or gone without a trace.
//!
//! Sources are laid out in a worktree under the cache, built there, and taken away again; the program stays in the cache
//! under the revision and the patch it came from. A commit is made of objects alone. So the branch, the index and the
//! files of the repository are never touched, and a kill at any moment leaves at most a worktree that the next start
//! removes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::spec::Frozen;

/// Why a revision or a patch cannot be built or kept.
#[derive(Debug, thiserror::Error)]
pub enum CodeError {
    /// git refused.
    #[error("git {0}: {1}")]
    Git(String, String),
    /// The sources are not what is committed.
    #[error(
        "there are uncommitted changes ({0}); commit or stash them, a code candidate is compared with a commit"
    )]
    Dirty(String),
    /// The build failed.
    #[error("{0} cannot be built: {1}")]
    Build(String, String),
    /// Reading or writing failed.
    #[error("{0}: {1}")]
    Io(PathBuf, std::io::Error),
}

/// Builds the sources in a folder with intermediate files in another, and says where the program is.
pub type Build<'a> = &'a mut dyn FnMut(&Path, &Path) -> Result<PathBuf, String>;

/// Builds `tamp` with cargo, as releases are built. `say` gets each line of its progress.
pub fn cargo(source: &Path, target: &Path, say: &mut dyn FnMut(&str)) -> Result<PathBuf, String> {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release", "--locked", "-p", "tamp-cli", "--target-dir"]).arg(target);
    let cargo = cargo.current_dir(source).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = cargo.spawn().map_err(|e| format!("cannot start cargo: {e}"))?;
    let mut last = Vec::new();
    if let Some(err) = child.stderr.take() {
        for line in std::io::BufRead::lines(std::io::BufReader::new(err)).map_while(Result::ok) {
            say(line.trim());
            last.push(line);
            if last.len() > 12 {
                last.remove(0);
            }
        }
    }
    let status = child.wait().map_err(|e| e.to_string())?;
    if !status.success() {
        return Err(last.join("\n"));
    }
    let built = ["tamp", "tamp.exe"].map(|name| target.join("release").join(name));
    built.into_iter().find(|p| p.is_file()).ok_or_else(|| "cargo built no program".to_string())
}

/// The repository that arms are built from.
pub struct Code<'a> {
    root: PathBuf,
    cache: PathBuf,
    build: Build<'a>,
    /// what this program was built from, and where it is
    own: Option<(String, PathBuf)>,
    /// the ledger's folder, which grows while its questions are answered
    except: Option<PathBuf>,
    held: Option<File>,
}

impl<'a> Code<'a> {
    /// The repository around `root`; programs and intermediate files under `cache`.
    pub fn new(root: &Path, cache: &Path, build: Build<'a>) -> Self {
        Code { root: root.into(), cache: cache.into(), build, own: None, except: None, held: None }
    }

    /// The program at `path` was built from the unchanged revision `sha`, which need not be built then.
    pub fn own(mut self, sha: &str, path: &Path) -> Self {
        self.own = Some((sha.into(), path.into()));
        self
    }

    /// Changes under `folder` do not make the sources dirty.
    pub fn except(mut self, folder: &Path) -> Self {
        self.except = Some(folder.into());
        self
    }

    fn git(&self, at: &Path, args: &[&str], index: Option<&Path>) -> Result<String, CodeError> {
        let bad = |why: String| CodeError::Git(args.join(" "), why);
        let mut git = Command::new("git");
        // Set by hooks and some tools; they would point it at another tree.
        for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY"] {
            git.env_remove(name);
        }
        git.envs(index.map(|i| ("GIT_INDEX_FILE", i)));
        let out =
            git.arg("-C").arg(at).args(args).stdin(Stdio::null()).output().map_err(|e| bad(e.to_string()))?;
        if !out.status.success() {
            let said = String::from_utf8_lossy(&out.stderr);
            return Err(bad(said.trim().lines().last().unwrap_or("it failed").to_string()));
        }
        Ok(String::from_utf8_lossy(&out.stdout).trim_end().to_string())
    }

    /// The commit that a name means.
    pub fn resolve(&self, rev: &str) -> Result<String, CodeError> {
        self.git(
            &self.root,
            &["rev-parse", "--verify", "--end-of-options", &format!("{rev}^{{commit}}")],
            None,
        )
    }

    /// Whether every file that git knows is as it was committed, leaving out the ledger's folder.
    pub fn clean(&self) -> Result<(), CodeError> {
        let mut args = vec!["status", "--porcelain", "--untracked-files=no", "--", "."];
        let top = self.git(&self.root, &["rev-parse", "--show-toplevel"], None)?;
        let canonical = |p: &Path| fs::canonicalize(p).ok();
        let inside = self.except.as_deref().and_then(canonical).and_then(|e| {
            let rest = e.strip_prefix(canonical(Path::new(&top))?).ok()?;
            (rest != Path::new("")).then(|| format!(":(exclude,top){}", rest.display()))
        });
        args.extend(inside.as_deref());
        let changed = self.git(Path::new(&top), &args, None)?;
        if changed.is_empty() {
            return Ok(());
        }
        let files: Vec<&str> = changed.lines().filter_map(|l| l.get(3..)).collect();
        let more = if files.len() > 3 { format!(" and {} more", files.len() - 3) } else { String::new() };
        Err(CodeError::Dirty(format!("{}{more}", files[..files.len().min(3)].join(", "))))
    }

    /// One process at a time uses the cache; what a killed one left in it is removed.
    fn hold(&mut self) -> Result<(), CodeError> {
        if self.held.is_some() {
            return Ok(());
        }
        let named = self.cache.clone();
        let io = |e| CodeError::Io(named.clone(), e);
        fs::create_dir_all(self.cache.join("bin")).map_err(io)?;
        // git and cargo are run in other folders than this one.
        self.cache = fs::canonicalize(&self.cache).map_err(io)?;
        let lock = File::create(self.cache.join("lock")).map_err(io)?;
        lock.lock().map_err(io)?;
        let trees = self.cache.join("trees");
        if trees.exists() {
            fs::remove_dir_all(&trees).map_err(io)?;
        }
        self.git(&self.root, &["worktree", "prune"], None)?;
        self.held = Some(lock);
        Ok(())
    }

    /// The patch as git takes it, and the hash of its content.
    fn patch(&self, patch: &Path) -> Result<(PathBuf, String), CodeError> {
        let path = self.root.join(patch);
        let path = fs::canonicalize(&path).map_err(|e| CodeError::Io(path, e))?;
        let hash = crate::bench::hash_file(&path).map_err(|e| CodeError::Io(path.clone(), e))?;
        Ok((path, hash))
    }

    /// The program of the commit `sha`, with `patch` (named from the root) applied. Built once.
    pub fn binary(&mut self, sha: &str, patch: Option<&Path>) -> Result<PathBuf, CodeError> {
        if let (Some((own, path)), None) = (&self.own, patch)
            && own == sha
        {
            return Ok(path.clone());
        }
        self.hold()?;
        let sha = self.resolve(sha)?;
        let patch = patch.map(|p| self.patch(p)).transpose()?;
        let mut name = sha[..16.min(sha.len())].to_string();
        if let Some((_, hash)) = &patch {
            name = format!("{name}-{}", &hash[..16]);
        }
        let kept = self.cache.join("bin").join(&name);
        if kept.exists() {
            return Ok(kept);
        }
        let tree = self.cache.join("trees").join(&name);
        let done = self.build_in(&tree, &sha, patch.as_ref().map(|p| p.0.as_path()), &kept);
        self.remove(&tree)?;
        done.map(|()| kept)
    }

    fn build_in(
        &mut self,
        tree: &Path,
        sha: &str,
        patch: Option<&Path>,
        kept: &Path,
    ) -> Result<(), CodeError> {
        let at = tree.display().to_string();
        self.git(&self.root, &["worktree", "add", "--detach", "--force", &at, sha], None)?;
        if let Some(p) = patch {
            self.git(tree, &["apply", &p.display().to_string()], None)?;
        }
        let target = self.cache.join("target");
        let built = (self.build)(tree, &target)
            .map_err(|why| CodeError::Build(sha[..12.min(sha.len())].into(), why))?;
        // Renamed into place, so that what is in the cache is whole.
        let half = kept.with_extension("half");
        fs::copy(&built, &half).map_err(|e| CodeError::Io(built, e))?;
        fs::rename(&half, kept).map_err(|e| CodeError::Io(half, e))
    }

    fn remove(&self, tree: &Path) -> Result<(), CodeError> {
        if tree.exists() {
            fs::remove_dir_all(tree).map_err(|e| CodeError::Io(tree.into(), e))?;
        }
        self.git(&self.root, &["worktree", "prune"], None).map(|_| ())
    }

    /// Commits `patch` on top of `sha` on a branch `lab/<short id of the spec>`, and gives the commit. A branch that
    /// already holds just that is left as it is; another one of that name gets a neighbour with a number.
    pub fn keep(&mut self, spec: &Frozen, sha: &str, patch: &Path, row: &str) -> Result<String, CodeError> {
        self.hold()?;
        let sha = self.resolve(sha)?;
        let (patch, _) = self.patch(patch)?;
        let index = self.cache.join("index");
        if index.exists() {
            fs::remove_file(&index).map_err(|e| CodeError::Io(index.clone(), e))?;
        }
        let at = |args: &[&str]| self.git(&self.root, args, Some(&index));
        at(&["read-tree", &sha])?;
        at(&["apply", "--cached", &patch.display().to_string()])?;
        let tree = at(&["write-tree"])?;
        let said = format!(
            "{}\n\n{}\n\nLab-Spec: {}\nLab-Row: {row}\nLab-Verdict: retain\n",
            spec.spec.title, spec.spec.change, spec.id
        );
        for n in 1..100 {
            let suffix = if n == 1 { String::new() } else { format!("-{n}") };
            let branch = format!("refs/heads/lab/{}{suffix}", spec.short());
            if let Ok(there) = self.resolve(&branch) {
                let of = |what: &str| self.git(&self.root, &["rev-parse", &format!("{there}{what}")], None);
                if of("^{tree}")? == tree && of("^")? == sha {
                    return Ok(there);
                }
                continue;
            }
            let mut args = Vec::new();
            if self.git(&self.root, &["config", "user.email"], None).is_err() {
                args.extend(["-c", "user.name=tamp lab", "-c", "user.email=lab@localhost"]);
            }
            args.extend(["commit-tree", "--no-gpg-sign", "-p", &sha, "-m", &said, &tree]);
            let commit = at(&args)?;
            // The empty old value: it must not be there yet.
            self.git(&self.root, &["update-ref", &branch, &commit, ""], None)?;
            return Ok(commit);
        }
        Err(CodeError::Git("branch".into(), format!("a hundred branches lab/{}… are there", spec.short())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::tests::spec;

    struct Repo {
        dir: tempfile::TempDir,
    }

    impl Repo {
        /// Two commits of a "program" that is one file, and a patch on top of the second.
        fn new() -> Repo {
            let dir = tempfile::tempdir().unwrap();
            let r = Repo { dir };
            fs::create_dir_all(r.path().join("lab")).unwrap();
            r.git(&["init", "-q", "-b", "main"]);
            r.git(&["config", "user.name", "t"]);
            r.git(&["config", "user.email", "t@example"]);
            for text in ["one\n", "two\n"] {
                fs::write(r.path().join("program"), text).unwrap();
                fs::write(r.path().join("other"), "same\n").unwrap();
                r.git(&["add", "program", "other"]);
                r.git(&["commit", "-q", "-m", text.trim()]);
            }
            let patch = "--- a/program\n+++ b/program\n@@ -1 +1 @@\n-two\n+three\n";
            fs::write(r.path().join("lab/better.patch"), patch).unwrap();
            r
        }

        fn path(&self) -> &Path {
            self.dir.path()
        }

        fn git(&self, args: &[&str]) -> String {
            let out = Command::new("git").arg("-C").arg(self.path()).args(args).output().unwrap();
            assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
            String::from_utf8_lossy(&out.stdout).trim().to_string()
        }

        /// Everything of the repository that somebody works with: head, branches' tips, index, files.
        fn state(&self) -> Vec<String> {
            let files = |n: &str| fs::read_to_string(self.path().join(n)).unwrap_or_default();
            vec![
                self.git(&["rev-parse", "HEAD"]),
                self.git(&["symbolic-ref", "HEAD"]),
                self.git(&["rev-parse", "main"]),
                self.git(&["ls-files", "--stage"]),
                self.git(&["status", "--porcelain"]),
                self.git(&["stash", "list"]),
                files("program"),
                files("other"),
            ]
        }

        fn worktrees(&self) -> usize {
            self.git(&["worktree", "list"]).lines().count()
        }
    }

    /// Copies the "program" and counts how often it was asked to.
    fn with<T>(r: &Repo, cache: &Path, count: &mut usize, f: impl FnOnce(&mut Code<'_>) -> T) -> T {
        let mut build = |source: &Path, target: &Path| {
            *count += 1;
            fs::create_dir_all(target).unwrap();
            fs::copy(source.join("program"), target.join("built")).map_err(|e| e.to_string())?;
            Ok(target.join("built"))
        };
        f(&mut Code::new(r.path(), cache, &mut build).except(&r.path().join("lab")))
    }

    #[test]
    fn each_revision_and_patch_is_built_once_and_the_tree_is_not_touched() {
        let (r, cache) = (Repo::new(), tempfile::tempdir().unwrap());
        let before = r.state();
        let mut built = 0;
        for _ in 0..2 {
            with(&r, cache.path(), &mut built, |c| {
                let patch = Path::new("lab/better.patch");
                for (rev, patch, text) in
                    [("HEAD~1", None, "one\n"), ("main", None, "two\n"), ("HEAD", Some(patch), "three\n")]
                {
                    let sha = c.resolve(rev).unwrap();
                    let path = c.binary(&sha, patch).unwrap();
                    assert_eq!(fs::read_to_string(path).unwrap(), text, "{rev}");
                }
            });
        }
        assert_eq!(built, 3);
        assert_eq!((r.state(), r.worktrees()), (before, 1));
    }

    #[test]
    fn another_patch_of_the_same_name_is_another_program() {
        let (r, cache) = (Repo::new(), tempfile::tempdir().unwrap());
        let mut built = 0;
        let mut text = || {
            with(&r, cache.path(), &mut built, |c| {
                let path =
                    c.binary(&c.resolve("HEAD").unwrap(), Some(Path::new("lab/better.patch"))).unwrap();
                fs::read_to_string(path).unwrap()
            })
        };
        assert_eq!(text(), "three\n");
        let patch = r.path().join("lab/better.patch");
        fs::write(&patch, fs::read_to_string(&patch).unwrap().replace("three", "four")).unwrap();
        assert_eq!(text(), "four\n");
    }

    #[test]
    fn a_kept_candidate_is_a_commit_on_its_own_branch_and_nothing_else_moves() {
        let (r, cache) = (Repo::new(), tempfile::tempdir().unwrap());
        let before = r.state();
        let s = spec("three is better than two", 0.5, "");
        let mut built = 0;
        let keep = |built: &mut usize| {
            with(&r, cache.path(), built, |c| {
                let sha = c.resolve("HEAD").unwrap();
                c.keep(&s, &sha, Path::new("lab/better.patch"), "the row").unwrap()
            })
        };
        let commit = keep(&mut built);
        let branch = format!("lab/{}", s.short());
        assert_eq!(r.git(&["rev-parse", &branch]), commit);
        assert_eq!(r.git(&["rev-parse", &format!("{branch}^")]), r.git(&["rev-parse", "main"]));
        assert_eq!(r.git(&["show", &format!("{branch}:program")]), "three");
        let said = r.git(&["log", "-1", "--format=%B", &branch]);
        assert!(said.starts_with("three is better than two") && said.contains("Lab-Row: the row"), "{said}");
        // Doing it again, as after a kill, gives the same commit.
        assert_eq!(keep(&mut built), commit);
        assert_eq!(r.state(), before);
        // What another attempt kept is not overwritten.
        fs::write(r.path().join("program"), "two\n").unwrap();
        r.git(&["commit", "-q", "--allow-empty", "-m", "more"]);
        let again = keep(&mut built);
        assert_ne!(again, commit);
        assert_eq!(r.git(&["rev-parse", &branch]), commit);
        assert_eq!(r.git(&["rev-parse", &format!("{branch}-2")]), again);
    }

    #[test]
    fn a_changed_tree_is_refused_by_name_but_not_for_the_ledger() {
        let (r, cache) = (Repo::new(), tempfile::tempdir().unwrap());
        let mut built = 0;
        let mut clean = || with(&r, cache.path(), &mut built, |c| c.clean().map_err(|e| e.to_string()));
        assert_eq!(clean(), Ok(()));
        fs::write(r.path().join("lab/ledger.jsonl"), "a row").unwrap();
        r.git(&["add", "lab"]);
        assert_eq!(clean(), Ok(()));
        fs::write(r.path().join("program"), "changed").unwrap();
        assert!(clean().unwrap_err().contains("program"));
        r.git(&["add", "program"]);
        assert!(clean().unwrap_err().contains("program"), "staged changes count too");
    }

    #[test]
    fn a_worktree_left_by_a_kill_is_removed_at_the_next_start() {
        let (r, cache) = (Repo::new(), tempfile::tempdir().unwrap());
        let before = r.state();
        let sha = r.git(&["rev-parse", "HEAD"]);
        let left = cache.path().join("trees").join(&sha[..16]);
        r.git(&["worktree", "add", "--detach", &left.display().to_string(), &sha]);
        fs::write(left.join("program"), "half").unwrap();
        fs::create_dir_all(cache.path().join("bin")).unwrap();
        fs::write(cache.path().join("bin").join(format!("{}.half", &sha[..16])), "ha").unwrap();
        let mut built = 0;
        let text = with(&r, cache.path(), &mut built, |c| {
            fs::read_to_string(c.binary(&sha, None).unwrap()).unwrap()
        });
        assert_eq!((text.as_str(), built, r.worktrees()), ("two\n", 1, 1));
        assert_eq!(r.state(), before);
    }

    #[test]
    fn what_cannot_be_built_says_why_and_leaves_nothing() {
        let (r, cache) = (Repo::new(), tempfile::tempdir().unwrap());
        let mut fail = |_: &Path, _: &Path| Err("error: expected `;`".to_string());
        let mut c = Code::new(r.path(), cache.path(), &mut fail);
        let sha = c.resolve("HEAD").unwrap();
        assert!(c.binary(&sha, None).unwrap_err().to_string().contains("expected `;`"));
        fs::write(r.path().join("lab/bad.patch"), "--- a/none\n+++ b/none\n@@ -1 +1 @@\n-x\n+y\n").unwrap();
        assert!(c.binary(&sha, Some(Path::new("lab/bad.patch"))).unwrap_err().to_string().contains("apply"));
        assert!(
            c.binary(&sha, Some(Path::new("lab/none.patch"))).unwrap_err().to_string().contains("none.patch")
        );
        assert!(c.resolve("no-such").is_err() && c.resolve("--help").is_err());
        assert_eq!(r.worktrees(), 1);
        assert_eq!(fs::read_dir(cache.path().join("bin")).unwrap().count(), 0);
    }

    #[test]
    fn the_running_program_is_its_own_revision() {
        let (r, cache) = (Repo::new(), tempfile::tempdir().unwrap());
        let sha = r.git(&["rev-parse", "HEAD"]);
        let mut fail = |_: &Path, _: &Path| Err(String::new());
        let mut c = Code::new(r.path(), cache.path(), &mut fail).own(&sha, Path::new("/usr/bin/tamp"));
        assert_eq!(c.binary(&sha, None).unwrap(), Path::new("/usr/bin/tamp"));
        assert!(c.binary(&sha, Some(Path::new("lab/better.patch"))).is_err(), "a patch is not in it");
    }
}
