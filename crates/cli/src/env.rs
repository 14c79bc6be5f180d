//! What the process was told by its environment, read once: nothing else in the program looks.

use std::path::PathBuf;

/// The values used.
#[derive(Debug, Clone, Default)]
pub struct Env {
    /// `TAMP_STORE`: folder of the local model store
    pub store: Option<PathBuf>,
    /// `HF_ENDPOINT`: another hub, or a stand-in for tests
    pub hub: Option<String>,
    /// `HF_TOKEN`: for gated repositories
    pub hub_token: Option<String>,
    /// `NO_COLOR` is set and not empty, or `TERM=dumb`
    pub plain: bool,
    /// `TAMP_LOCK`: another file for the machine's lock, for tests and for containers that share one
    pub lock: PathBuf,
    /// `TAMP_LAB_HOLDER`: the process that holds the lock for this one, as it says
    pub holder: Option<u32>,
    /// the platform's data folder for tamp: store and chat history
    pub data_dir: Option<PathBuf>,
    /// the platform's cache folder for tamp: which bundles were verified
    pub cache_dir: Option<PathBuf>,
    /// the platform's configuration folder for tamp: `tamp.toml`
    pub config_dir: Option<PathBuf>,
}

impl Env {
    /// A variable that the user's own file names, such as the key of a server.
    pub fn named(name: &str) -> Option<String> {
        std::env::var(name).ok().filter(|v| !v.is_empty())
    }

    /// Reads the process environment.
    pub fn read() -> Self {
        let text = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let dirs = directories::ProjectDirs::from("", "", "tamp");
        Self {
            store: std::env::var_os("TAMP_STORE").filter(|v| !v.is_empty()).map(PathBuf::from),
            hub: text("HF_ENDPOINT"),
            hub_token: text("HF_TOKEN"),
            plain: text("NO_COLOR").is_some() || text("TERM").is_some_and(|t| t == "dumb"),
            lock: std::env::var_os("TAMP_LOCK").filter(|v| !v.is_empty()).map_or_else(
                || tamp_lab::lock::folder(&std::env::temp_dir()).join(tamp_lab::lock::FILE),
                PathBuf::from,
            ),
            holder: text("TAMP_LAB_HOLDER").and_then(|v| v.parse().ok()),
            data_dir: dirs.as_ref().map(|d| d.data_dir().to_path_buf()),
            cache_dir: dirs.as_ref().map(|d| d.cache_dir().to_path_buf()),
            config_dir: dirs.as_ref().map(|d| d.config_dir().to_path_buf()),
        }
    }
}
