//! Generated stacks of layers, each unpacked by us and by `umoci unpack` and compared entry by entry; what is
//! mounted and what is copied are compared too. Needs root and umoci.
//!
//! `AGENT_TEST_SEED=N` runs one stack, `AGENT_TEST_ALL=1` many.

#[path = "stacks/archive.rs"]
mod archive;
#[path = "stacks/generate.rs"]
mod generate;
#[path = "pull/layout.rs"]
#[allow(dead_code, reason = "the pull tests make more of it")]
mod layout;
#[path = "stacks/model.rs"]
mod model;
#[path = "stacks/random.rs"]
mod random;
#[path = "pull/tree.rs"]
#[allow(dead_code, reason = "the other tests look at images of a store")]
mod tree;

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use image::unpack::below::Below;
use image::unpack::{Limits, unpack};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use layout::{Layout, Packing};
use random::Random;

type Tree = BTreeMap<PathBuf, tree::Node>;

#[test]
fn every_stack_is_what_umoci_makes_of_it() {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).expect("tests run as root");
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).expect("private");
    let all = std::env::var_os("AGENT_TEST_ALL").is_some_and(|value| value != "0" && !value.is_empty());
    let seeds = match std::env::var("AGENT_TEST_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("AGENT_TEST_SEED is a number");
            seed..=seed
        }
        Err(_) if all => 0..=1000,
        Err(_) => 0..=40,
    };
    let (mut failed, mut refused) = (Vec::new(), 0);
    let count = seeds.clone().count();
    for seed in seeds {
        let mut random = Random::new(seed);
        let stack = generate::stack(&mut random);
        let archives = generate::archives(&stack, &mut random);
        let compared = catch_unwind(AssertUnwindSafe(|| compare(&archives)));
        refused += usize::from(matches!(compared, Ok(false)));
        if compared.is_err() {
            for (at, layer) in stack.iter().enumerate() {
                eprintln!("layer {at} of AGENT_TEST_SEED={seed}:");
                for entry in layer {
                    eprintln!("  {:?} {:?} -> {:?}", entry.kind, entry.path, entry.link);
                }
            }
            failed.push(seed);
        }
        if failed.len() > 4 {
            break;
        }
    }
    assert!(failed.is_empty(), "these seeds failed: {failed:?}");
    assert!(refused <= count / 50, "umoci refused {refused} of {count} stacks");
}

/// Panics where the trees differ; false when umoci does not take the stack, which the generator sees to that it does,
/// but for corners of its own.
fn compare(archives: &[Vec<u8>]) -> bool {
    let begun = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    let place = tempfile::tempdir().expect("a folder");
    let layers = ours(archives, place.path());
    let mut mounted = mounted(&layers, place.path());

    let copy = place.path().join("copy");
    fs::create_dir(&copy).expect("a folder");
    image::copy_rootfs(&layers, &copy).expect("copied");
    tree::assert_equal(&tree::read(&copy), &mounted);

    let packed: Vec<(&[u8], Packing)> = archives.iter().map(|layer| (&layer[..], Packing::Plain)).collect();
    let layout = Layout::new(&packed, "stack");
    let bundle = place.path().join("bundle");
    let image = format!("{}:t", layout.path().display());
    let output = Command::new("umoci").args(["unpack", "--image", &image]).arg(&bundle).output();
    let output = output.expect("umoci runs");
    if !output.status.success() {
        eprintln!("umoci: {}", String::from_utf8_lossy(&output.stderr));
        return false;
    }
    let mut theirs = tree::read(&bundle.join("rootfs"));
    // Folders that no entry describes have the time of their making; umoci also moves that of one in which it
    // made such a folder.
    for (path, node) in &mut theirs {
        if node.is_folder_changed_since(begun) {
            node.without_time();
            if let Some(ours) = mounted.get_mut(path) {
                ours.without_time();
            }
        }
    }
    tree::assert_equal(&mounted, &theirs);
    true
}

/// The folders of the unpacked layers, top first.
fn ours(archives: &[Vec<u8>], place: &Path) -> Vec<PathBuf> {
    let mut layers: Vec<PathBuf> = Vec::new();
    let mut unpacked = Vec::new();
    for (at, archive) in archives.iter().enumerate() {
        let folder = place.join(at.to_string());
        fs::create_dir(&folder).expect("a folder");
        unpacked.push(unpack(&archive[..], &folder, &Limits::default()).expect("unpacked"));
        layers.insert(0, folder);
    }
    for (at, unpacked) in unpacked.into_iter().enumerate() {
        let below = Below::open(&layers[layers.len() - at..]).expect("layers");
        unpacked.settle(&below).expect("settled");
    }
    layers
}

fn mounted(layers: &[PathBuf], place: &Path) -> Tree {
    let lower: Vec<String> = layers.iter().map(|layer| layer.display().to_string()).collect();
    let options = format!("lowerdir={}", lower.join(":"));
    let target = place.join("mounted");
    fs::create_dir(&target).expect("a folder");
    mount(Some("overlay"), &target, Some("overlay"), MsFlags::MS_RDONLY, Some(&*options)).expect("mounted");
    let seen = tree::read(&target);
    umount2(&target, MntFlags::MNT_DETACH).expect("unmounted");
    seen
}
