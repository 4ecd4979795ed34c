//! kill -9 of `agent`, of the monitor, or of both at random points of an operation: what comes after it finds
//! nothing leaked and nothing double.
//!
//! The points are drawn evenly from the time that the operation takes when nobody disturbs it.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::support::extent;
use tests::support::random::Random;
use tests::support::tree::{self, Tree};
use tests::{Image, Layer, Node, PROBE, Running, within};

/// Rounds of each operation.
fn rounds() -> usize {
    extent::count(20, 200)
}

/// Who is killed.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Agent,
    Monitor,
    Both,
}

/// A machine where operations are cut short.
struct Scene {
    node: Node,
    /// How many monitors met their end.
    monitors: usize,
    random: Random,
    /// How long the operation takes.
    whole: Duration,
    /// The name that the operation's container has in this round.
    name: String,
}

impl Scene {
    /// Measures the operation `words` (in which `NAME` stands for the container's name), prepared by `prepare`.
    fn new(prepare: &[&str], words: &[&str]) -> Self {
        let node = Node::new();
        let mut scene = Scene {
            node,
            monitors: 0,
            random: Random::seeded(),
            whole: Duration::ZERO,
            name: "first".to_owned(),
        };
        // The first time is slower: it makes the bridge.
        for _ in 0..2 {
            scene.prepare(prepare);
            let start = Instant::now();
            let _ = scene.node.agent(&scene.named(words)).ok();
            scene.whole = start.elapsed();
            scene.node.remove_containers();
        }
        eprintln!("the operation takes {:?}", scene.whole);
        scene
    }

    fn named<'a>(&'a self, words: &[&'a str]) -> Vec<&'a str> {
        words.iter().map(|word| if *word == "NAME" { self.name.as_str() } else { *word }).collect()
    }

    fn prepare(&self, words: &[&str]) {
        if !words.is_empty() {
            let _ = self.node.agent(&self.named(words)).ok();
            // Before it listens to signals it ends by none but SIGKILL.
            self.node.log_with(&self.name, "ready");
        }
    }

    /// Starts the operation, kills somebody on the way, and says whom and when.
    fn cut_short(&mut self, round: usize, words: &[&str]) -> String {
        let after = self.random.time(self.whole);
        let victim = [Victim::Agent, Victim::Monitor, Victim::Both][round % 3];
        let agent = self.node.start(&self.named(words));
        thread::sleep(after);
        self.kill(victim, &agent);
        // One whose monitor was killed has to end by itself.
        let output = agent.finish_within(Duration::from_secs(30));
        assert!(!output.stderr.contains("panicked"), "{output:?}");
        format!("round {round}: {victim:?} killed after {after:?} of {words:?}: {output:?}")
    }

    fn kill(&mut self, victim: Victim, agent: &Running) {
        let mut victims = match victim {
            Victim::Monitor | Victim::Both => self.node.monitors(),
            Victim::Agent => Vec::new(),
        };
        let starting: Vec<i32> = victims.iter().flat_map(|pid| starting(*pid)).collect();
        if let Victim::Agent | Victim::Both = victim {
            victims.push(agent.pid().as_raw());
        }
        for pid in &victims {
            // It may just have ended.
            let killed = kill(Pid::from_raw(*pid), Signal::SIGKILL).is_ok();
            self.monitors += usize::from(killed && *pid != agent.pid().as_raw());
        }
        // On a busy machine they take a while to be gone, and until then hold on to what they held; so do the
        // processes they were just bringing up.
        for pid in victims.into_iter().chain(starting) {
            within(Duration::from_secs(10), "the end of who was killed", || is_gone(pid).then_some(()));
        }
    }

    /// What an ordinary user does next, and what must be true then.
    fn come_back(&self, told: &str) {
        let node = &self.node;
        assert_eq!(node.agent(&["ps"]).code, 0, "{told}");
        let output = node.agent(&["run", "--rm", PROBE, "exit", "5"]);
        assert_eq!((output.code, output.stderr.as_str()), (5, ""), "{told}: then");
        let all = node.agent(&["ps", "-a", "-q"]).ok();
        assert!(all.lines().count() <= 1, "{told}: then there are {all:?}");
        match node.agent(&["ps", "-q"]).ok().as_str() {
            "" => {
                let nothing = std::panic::AssertUnwindSafe(|| node.assert_nothing_runs());
                if let Err(panic) = std::panic::catch_unwind(nothing) {
                    eprintln!("{told}");
                    std::panic::resume_unwind(panic);
                }
            }
            // What is said to run does, or is about to end by itself.
            id => within(Duration::from_secs(10), &format!("{id} to run or to end: {told}"), || {
                let alive = node.agent(&["exec", id, "/probe", "exit", "6"]).code == 6;
                (alive || node.agent(&["ps", "-q"]).ok().is_empty()).then_some(())
            }),
        }
        for id in all.lines() {
            let removed = node.agent(&["rm", "-f", id]);
            assert_eq!(removed.code, 0, "{told}: then: {}", removed.stderr);
        }
        if let Err(panic) =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| node.assert_nothing_left()))
        {
            eprintln!("{told}");
            std::panic::resume_unwind(panic);
        }
    }

    /// Returns how many monitors were killed on the way.
    fn rounds(mut self, prepare: &[&str], words: &[&str]) -> usize {
        for round in 0..rounds() {
            self.name = format!("c{round}");
            self.prepare(prepare);
            let told = self.cut_short(round, words);
            self.come_back(&told);
        }
        eprintln!("{} monitors were killed", self.monitors);
        self.monitors
    }
}

/// The children of a monitor that are not yet what they are to be.
fn starting(monitor: i32) -> Vec<i32> {
    let children = fs::read_to_string(format!("/proc/{monitor}/task/{monitor}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok());
    let words = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    children.filter(|pid| words(pid).ends_with("\0monitor\0")).collect()
}

/// Whether a process has let go of everything: it is no more, or waits for its parent to hear so.
fn is_gone(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}

const DETACHED: [&str; 8] = ["run", "-d", "--name", "NAME", "-p", "8080:80", PROBE, "wait"];

#[test]
fn run_in_the_background_survives_kill_9() {
    Scene::new(&[], &DETACHED).rounds(&[], &DETACHED);
}

#[test]
fn run_in_the_foreground_survives_kill_9() {
    let words = ["run", "--name", "NAME", "-p", "8080:80", PROBE, "sleep", "0.1"];
    Scene::new(&[], &words).rounds(&[], &words);
}

#[test]
fn run_that_removes_itself_survives_kill_9() {
    let words = ["run", "--rm", "--name", "NAME", PROBE, "exit", "0"];
    let mut scene = Scene::new(&[], &words);
    for round in 0..rounds() {
        scene.name = format!("c{round}");
        let told = scene.cut_short(round, &words);
        let output = scene.node.agent(&["run", "--rm", PROBE, "exit", "5"]);
        assert_eq!(output.code, 5, "{told}: then: {}", output.stderr);
        // Nobody has to remove what was to remove itself.
        eprintln!("{told}");
        scene.node.assert_nothing_left();
    }
}

#[test]
fn stop_survives_kill_9() {
    Scene::new(&DETACHED, &["stop", "NAME"]).rounds(&DETACHED, &["stop", "NAME"]);
}

#[test]
fn rm_survives_kill_9() {
    Scene::new(&DETACHED, &["rm", "-f", "NAME"]).rounds(&DETACHED, &["rm", "-f", "NAME"]);
}

#[test]
fn exec_survives_kill_9() {
    let words = ["exec", "NAME", "/probe", "exit", "0"];
    // Here there is always one.
    assert!(Scene::new(&DETACHED, &words).rounds(&DETACHED, &words) > 0);
}

/// An image whose pull takes a while.
fn slow_image(random: &mut Random) -> Image {
    let mut image = Image::on("probe");
    for at in 0..4 {
        let mut layer = Layer::new().dir(&format!("layer{at}"));
        for file in 0..100 {
            layer = layer.file(&format!("layer{at}/{file}"), random.bytes(30_000));
        }
        image =
            image.layer(layer.file("shared", random.bytes(1_000)).whiteout("", &format!("layer{}", at + 9)));
    }
    image
}

/// What is in the layers of the store, by their chain ids.
fn layers(node: &Node) -> Vec<(String, Tree)> {
    let folder = node.root().join("layers");
    let mut all: Vec<(String, Tree)> = fs::read_dir(&folder)
        .expect("there are layers")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name != "l")
        .map(|name| {
            let mut tree = tree::read(&folder.join(&name).join("fs"), &[]).expect("a layer can be read");
            // The root's time is that of its making where the archive has no entry for it.
            tree.remove(std::path::Path::new(""));
            (name, tree)
        })
        .collect();
    all.sort();
    all
}

#[test]
fn pull_survives_kill_9() {
    let mut random = Random::seeded();
    let node = Node::new();
    let name = node.push("slow", &slow_image(&mut random));
    let start = Instant::now();
    let _ = node.agent(&["pull", "-q", &name]).ok();
    let whole = start.elapsed();
    eprintln!("the pull takes {whole:?}");
    let expected = layers(&node);
    assert_eq!(expected.len(), 5);
    for round in 0..rounds() {
        fs::remove_dir_all(node.root()).expect("nothing uses it");
        let after = random.time(whole);
        // Once, or several times before it may come to its end.
        for _ in 0..=round % 3 {
            let pull = node.start(&["pull", "-q", &name]);
            thread::sleep(after);
            pull.signal(Signal::SIGKILL);
            pull.finish();
        }
        let told = format!("round {round}: killed after {after:?}");
        // What can be seen is whole.
        if !node.agent(&["images", "-q"]).ok().is_empty() {
            let output = node.agent(&["run", "--rm", "--pull", "never", &name, "exit", "5"]);
            assert_eq!(output.code, 5, "{told}: {}", output.stderr);
        }
        let output = node.agent(&["pull", "-q", &name]);
        assert_eq!(output.code, 0, "{told}: {}", output.stderr);
        let output = node.agent(&["run", "--rm", &name, "exit", "5"]);
        assert_eq!(output.code, 5, "{told}: {}", output.stderr);
        for ((found, tree), (chain, expected)) in layers(&node).iter().zip(&expected) {
            assert_eq!(found, chain, "{told}");
            tree::assert_equal(tree, expected);
        }
        assert_eq!(layers(&node).len(), expected.len(), "{told}");
        node.assert_nothing_left();
    }
}
