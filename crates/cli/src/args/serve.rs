//! The words of `serve` and `keys`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::LoadArgs;

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Paths, names of the store, or hf:…; requests call a model by its file's name [default: the default model]
    pub models: Vec<String>,
    /// Address to listen on; one that other machines can reach needs --keys
    #[arg(long, default_value = "127.0.0.1", value_name = "IP")]
    pub host: IpAddr,
    /// Port to listen on; 0 takes any free one and says which
    #[arg(long, default_value_t = 8080, value_name = "N")]
    pub port: u16,
    /// Who may ask: a file that `tamp keys add` writes
    #[arg(long, value_name = "FILE")]
    pub keys: Option<PathBuf>,
    /// Sequences at once [default: 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub batch: Option<u32>,
    /// How the models are loaded.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Seconds that requests under way may take after the signal to stop
    #[arg(long, default_value_t = 30, value_name = "S", value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub drain_seconds: u32,
    /// A web page of this origin may call the server (repeatable)
    #[arg(long, value_name = "ORIGIN")]
    pub cors_origin: Vec<String>,
    /// Another name under which this server is reached, as in the Host header (repeatable)
    #[arg(long, value_name = "NAME")]
    pub allowed_host: Vec<String>,
}

/// Commands of `keys`.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Makes a key, prints it once, and appends its hash to the file
    Add(KeysAddArgs),
}

/// Arguments of `keys add`.
#[derive(Debug, Args)]
pub struct KeysAddArgs {
    /// Whose key it is
    pub name: String,
    /// The file; it is made when it is not there
    #[arg(long, value_name = "FILE")]
    pub keys: PathBuf,
}
