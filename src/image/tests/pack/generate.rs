//! Trees of every kind of file, and changes to them, made up from a seed.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, makedev};

/// A file capability of version 2: cap_net_raw, permitted and effective.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

pub struct Generator {
    /// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
    state: u64,
    /// Names the next file.
    count: u64,
}

impl Generator {
    pub fn new(seed: u64) -> Self {
        Generator { state: seed, count: 0 }
    }

    fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    /// Makes a tree in an empty folder.
    pub fn fill(&mut self, root: &Path) {
        let mut folders = vec![root.to_owned()];
        let mut files = Vec::new();
        for _ in 0..60 {
            let at = self.below(folders.len() as u64) as usize;
            let path = folders[at].join(self.name());
            self.make(&path, &mut folders, &mut files);
        }
        self.describe_all(&folders);
    }

    /// Changes a tree as a container would.
    pub fn change(&mut self, root: &Path) {
        for _ in 0..40 {
            let (mut folders, mut files) = (vec![root.to_owned()], Vec::new());
            list(root, &mut folders, &mut files);
            let folder = folders[self.below(folders.len() as u64) as usize].clone();
            let file = (!files.is_empty()).then(|| files[self.below(files.len() as u64) as usize].clone());
            match (self.below(10), file) {
                (0..=2, _) => {
                    let path = folder.join(self.name());
                    let old = folders.len();
                    self.make(&path, &mut folders, &mut files);
                    let new = folders.split_off(old);
                    self.describe_all(&new);
                }
                (3, _) if folder != root => fs::remove_dir_all(&folder).expect("it goes"),
                // Another of the same name, with nothing of the old one in it.
                (4, _) if folder != root => {
                    fs::remove_dir_all(&folder).expect("it goes");
                    if self.below(2) == 0 {
                        fs::create_dir(&folder).expect("a folder");
                        fs::write(folder.join("new"), "x").expect("a file");
                        self.describe_all(&[folder.join("new"), folder]);
                    } else {
                        fs::write(&folder, "was a folder").expect("a file");
                    }
                }
                (5, _) => self.describe(&folder),
                (6, Some(file)) => fs::remove_file(file).expect("it goes"),
                (7, Some(file)) if file.symlink_metadata().expect("there").is_file() => {
                    fs::write(&file, format!("changed {}", self.count)).expect("a file");
                    self.describe(&file);
                }
                (8, Some(file)) => {
                    fs::remove_file(&file).expect("it goes");
                    files.retain(|other| *other != file);
                    let old = folders.len();
                    self.make(&file, &mut folders, &mut files);
                    let new = folders.split_off(old);
                    self.describe_all(&new);
                }
                (9, Some(file)) => {
                    let to = folder.join(self.name());
                    match fs::hard_link(&file, &to) {
                        // One has so many names already, or overlayfs does not see why.
                        Err(error) if error.kind() == io::ErrorKind::TooManyLinks => {}
                        other => other.expect("another name"),
                    }
                }
                _ => {}
            }
        }
    }

    /// A new name: short, long, and such as have a meaning elsewhere.
    fn name(&mut self) -> PathBuf {
        self.count += 1;
        let count = self.count;
        let name = match self.below(12) {
            0 => format!("{count}{}", "long".repeat(1 + self.below(55) as usize)),
            1 => format!("{count} with spaces\nand lines"),
            2 => format!("-{count}"),
            3 => format!("{count}ä ö 名"),
            4 => {
                let bytes = [format!("{count}").as_bytes(), &[0xff, 0xfe, b'=', b'%']].concat();
                return PathBuf::from(std::ffi::OsString::from_vec(bytes));
            }
            5 => format!(".hidden{count}"),
            6 => format!("{count}\\backslash"),
            7 => format!("PaxHeaders.{count}"),
            _ => format!("{count}"),
        };
        PathBuf::from(name)
    }

    fn make(&mut self, path: &Path, folders: &mut Vec<PathBuf>, files: &mut Vec<PathBuf>) {
        match self.below(14) {
            0..=3 => {
                fs::create_dir(path).expect("a folder");
                folders.push(path.to_owned());
                return;
            }
            4 => {
                let target = self.one_of(&["x", "/absolute/target", "../../../up"]);
                let target = target.repeat(1 + self.below(14) as usize);
                symlink(target, path).expect("a link");
            }
            5 => self.node(path, FileType::Fifo, (0, 0)),
            6 => {
                let kind = self.one_of(&[FileType::CharacterDevice, FileType::BlockDevice]);
                let device = self.one_of(&[(1, 3), (8, 17), (4095, 1_048_575)]);
                self.node(path, kind, device);
            }
            7 if !files.is_empty() => {
                let at = self.below(files.len() as u64) as usize;
                fs::hard_link(&files[at], path).expect("another name");
                return;
            }
            8 => {
                let file = File::create(path).expect("a file");
                // A hole first, last, between; or all of it.
                let size = self.one_of(&[2 << 20, 5 << 20]);
                file.set_len(size).expect("room");
                for _ in 0..self.below(4) {
                    let at = self.below(size - 5000);
                    file.write_all_at(&[b'd'; 5000], at).expect("room");
                }
            }
            _ => {
                let size = self.one_of(&[0, 1, 511, 512, 513, 4096, 70_000]);
                let byte = self.below(256) as u8;
                fs::write(path, vec![byte; size]).expect("a file");
            }
        }
        self.describe(path);
        files.push(path.to_owned());
    }

    fn node(&mut self, path: &Path, kind: FileType, device: (u32, u32)) {
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(CWD, path, kind, mode, makedev(device.0, device.1)).expect("root may");
    }

    /// Those that are deepest first: what is done in a folder changes its time.
    fn describe_all(&mut self, folders: &[PathBuf]) {
        let mut folders = folders.to_vec();
        folders.sort_by_key(|folder| std::cmp::Reverse(folder.components().count()));
        for folder in folders {
            self.describe(&folder);
        }
    }

    /// Gives a file an owner, a mode, attributes and a time.
    fn describe(&mut self, path: &Path) {
        let kind = path.symlink_metadata().expect("there").file_type();
        let ids = [0, 0, 7, 1000, 2_097_151, 2_097_152, 4_294_967_294];
        lchown(path, Some(self.one_of(&ids)), Some(self.one_of(&ids))).expect("root may");
        if !kind.is_symlink() {
            let mode = self.one_of(&[0o755, 0o644, 0o4755, 0o2711, 0o1777, 0o000, 0o600]);
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
        }
        let set = |name: &str, value: &[u8]| {
            rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).expect("the file system has them");
        };
        if kind.is_dir() || kind.is_file() {
            match self.below(6) {
                0 => set("user.text", b"value"),
                1 => set("user.bytes", b"\n\0=\xff\n12 a=b\n"),
                2 => set("user.long", &[b'v'; 3000]),
                _ => {}
            }
        }
        if kind.is_file() && self.below(4) == 0 {
            set("security.capability", &CAPABILITY);
        }
        let seconds = self.one_of(&[0, 1, -1, -86_400, 1_700_000_000, 1_700_000_001, 9_000_000_000]);
        let nanoseconds = self.one_of(&[0, 1, 500_000_000, 999_999_999]);
        let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("ours");
    }
}

/// All folders and files below one, in the order of their names, so that a seed always means the same.
fn list(root: &Path, folders: &mut Vec<PathBuf>, files: &mut Vec<PathBuf>) {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(root).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    for path in paths {
        if path.symlink_metadata().expect("there").is_dir() {
            folders.push(path.clone());
            list(&path, folders, files);
        } else {
            files.push(path);
        }
    }
}
