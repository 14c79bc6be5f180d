//! A tenant with ten times the load of another takes nothing of the other's.

use std::path::Path;

use serde_json::Value;

use crate::common::{last_json, ran, tamp};
use crate::host::{Host, full, scale};

/// A load on a server that runs, as `bench serve` sees it.
fn bench(home: &Path, host: &Host, more: &[&str]) -> Value {
    let url = format!("http://{}", host.addr);
    let args = ["bench", "serve", "--url", &url, "--json", "--workload", "completion", "--ignore-eos"];
    let r = ran(tamp(home).args(args).args(more));
    assert_eq!(r.code, 0, "{}", r.err);
    last_json(&r)
}

fn tenant<'a>(row: &'a Value, name: &str) -> &'a Value {
    row["tenants"].as_array().unwrap().iter().find(|t| t["name"] == name).unwrap()
}

#[test]
fn a_tenant_with_ten_times_the_load_leaves_the_other_its_share() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let add = |name: &str| {
        let r = ran(tamp(home).args(["keys", "add", name, "--keys", "keys.toml"]));
        assert_eq!(r.code, 0, "{}", r.err);
        r.out.trim().to_string()
    };
    let (light, heavy) = (add("light"), add("heavy"));
    let file = |heavy_load: f64| {
        let row = |name: &str, key: &str, load: f64| {
            format!("[[tenant]]\nname = \"{name}\"\nkey = \"{key}\"\nload = {load}\nweight = 1.0\n")
        };
        row("light", &light, 1.0)
            + &if heavy_load > 0.0 { row("heavy", &heavy, heavy_load) } else { String::new() }
    };
    std::fs::write(home.join("both.toml"), file(10.0)).unwrap();
    std::fs::write(home.join("one.toml"), file(0.0)).unwrap();
    let host = Host::start(home, &["--batch", "16", "--keys", "keys.toml", "--use", "engine.policy=tenant"]);
    let sizes = ["--prompt-tokens", "16-64", "-n", "16-32"];
    // How much the machine can, then half again as much: one in eleven of it is far below the light one's half.
    let n = scale(64, 400).to_string();
    let most = bench(home, &host, &[&sizes[..], &["--tenants", "both.toml", "-c", "32", "-r", &n]].concat());
    let can = most["requests_s"].as_f64().unwrap();
    let rate = |share: f64| format!("{:.3}", can * share);
    let (over, alone) = (rate(1.5), rate(1.5 / 11.0));
    let n = scale(110, 3300).to_string();
    let both =
        bench(home, &host, &[&sizes[..], &["--tenants", "both.toml", "--rate", &over, "-r", &n]].concat());
    let n = scale(20, 300).to_string();
    let solo =
        bench(home, &host, &[&sizes[..], &["--tenants", "one.toml", "--rate", &alone, "-r", &n]].concat());
    let (l, h) = (tenant(&both, "light"), tenant(&both, "heavy"));
    let p99 = |t: &Value| t["e2e_ms"]["p99"].as_f64().unwrap_or(f64::NAN);
    let jain = both["jain_entitled"].as_f64().unwrap();
    println!(
        "{can:.0} requests/s at most; at {over}: Jain {jain:.3} of what each was entitled to, light {:.3} of {:.3}; \
         its p99 {:.0} ms, alone {:.0} ms",
        l["service_share"].as_f64().unwrap(),
        l["entitled_share"].as_f64().unwrap(),
        p99(l),
        p99(&solo),
    );
    for t in [l, h] {
        assert_eq!(t["ok"], t["requests"], "{t}");
        assert!(t["requests"].as_u64().unwrap() > 0);
    }
    if full() {
        assert!(jain >= 0.95 && p99(l) <= 1.5 * p99(&solo), "Jain {jain}");
    }
    host.stop();
}
