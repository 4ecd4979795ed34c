//! `kill -9` at seeded random points of attach and detach, then detach leaves nothing.

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use network::{AttachSpec, Network, NetworkConfig};

use crate::host::{Host, Namespace, back_ends, publish};

/// Points in the normal run; `AGENT_TEST_POINTS` asks for more.
const POINTS: u32 = 20;

/// Says to the test process started again what to do: `VERB RUN_ROOT IPTABLES NETNS`.
const ORDER: &str = "AGENT_NETWORK_TEST_ORDER";

/// Not a test of its own: the victim of the others, which run it by name with an order.
#[test]
fn victim() {
    let Ok(order) = env::var(ORDER) else { return };
    let words: Vec<&str> = order.split(' ').collect();
    let [verb, run_root, iptables, netns] = words[..] else { panic!("{order}") };
    let mut config = NetworkConfig::new(run_root);
    config.iptables = Some(PathBuf::from(iptables));
    let network = Network::new(config).unwrap();
    if verb == "attach" {
        let netns = Namespace::open(netns.as_ref());
        let spec = AttachSpec { ports: vec![publish(2580, 80), publish(2581, 81)] };
        network.attach("victim", netns.fd(), &spec).unwrap();
    } else {
        network.detach("victim").unwrap();
    }
}

/// Starts the victim in the host's namespace and lets it run for `life`, or to its end.
fn run_victim(host: &Host, verb: &str, container: &Namespace, life: Option<Duration>) {
    let (root, netns) = (host.config.run_root.display(), container.path());
    let iptables = host.config.iptables.as_ref().unwrap().display();
    let order = format!("{verb} {root} {iptables} {}", netns.display());
    host.namespace.run(|| {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "interrupted::victim", "--test-threads=1"]).env(ORDER, order);
        let mut child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
        match life {
            Some(life) => {
                // The moment of death is what is tested; no condition could be waited for.
                thread::sleep(life);
                child.kill().unwrap();
                child.wait().unwrap();
            }
            None => assert!(child.wait().unwrap().success()),
        }
    });
}

/// xorshift; the seed is printed, so that a failure can be run again.
struct Random(u64);

impl Random {
    fn seeded() -> Self {
        let seed = env::var("AGENT_TEST_SEED").map_or(0x5eed, |text| text.parse().unwrap());
        eprintln!("AGENT_TEST_SEED={seed}");
        Self(seed.max(1))
    }

    fn below(&mut self, limit: Duration) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        limit.mul_f64((self.0 % 1000) as f64 / 1000.0)
    }
}

fn points() -> u32 {
    env::var("AGENT_TEST_POINTS").map_or(POINTS, |text| text.parse().unwrap())
}

/// How long the victim takes when it is left alone.
fn full_life(host: &Host, verb: &str, container: &Namespace) -> Duration {
    let start = Instant::now();
    run_victim(host, verb, container, None);
    start.elapsed()
}

#[test]
fn an_interrupted_attach_is_undone_by_detach() {
    let mut random = Random::seeded();
    for back_end in back_ends() {
        // Once with the bridge to be made, once with it there.
        for bridge_exists in [false, true] {
            let host = Host::new(&back_end);
            let clean = host.snapshot();
            let _stays = bridge_exists.then(|| host.container("stays", &[publish(2600, 80)]));
            let before = host.snapshot();
            let life = full_life(&host, "attach", &Namespace::new());
            for _ in 0..points().div_ceil(4) {
                host.detach("victim");
                if !bridge_exists {
                    host.namespace.run(|| host.network.remove_all()).unwrap();
                }
                let point = random.below(life);
                run_victim(&host, "attach", &Namespace::new(), Some(point));
                host.detach("victim");
                if bridge_exists {
                    assert_eq!(host.snapshot(), before, "killed after {point:?}");
                    assert_eq!(host.attached(), ["stays"]);
                } else {
                    assert!(host.attached().is_empty(), "killed after {point:?}");
                    // Half a bridge is no obstacle to the next.
                    host.container("next", &[publish(2580, 80)]).0.reaches([10, 86, 0, 1].into());
                    host.detach("next");
                    host.namespace.run(|| host.network.remove_all()).unwrap();
                    assert_eq!(host.snapshot(), clean, "killed after {point:?}");
                }
            }
        }
    }
}

#[test]
fn an_interrupted_detach_is_finished_by_the_next() {
    let mut random = Random::seeded();
    for back_end in back_ends() {
        let host = Host::new(&back_end);
        let _stays = host.container("stays", &[publish(2600, 80)]);
        let before = host.snapshot();
        let (container, _) = host.container("victim", &[publish(2580, 80)]);
        let life = full_life(&host, "detach", &container);
        for _ in 0..points().div_ceil(2) {
            let (container, _) = host.container("victim", &[publish(2580, 80)]);
            let point = random.below(life);
            run_victim(&host, "detach", &container, Some(point));
            host.detach("victim");
            assert_eq!(host.snapshot(), before, "killed after {point:?}");
            assert_eq!(host.attached(), ["stays"]);
        }
    }
}
