//! Files and outputs in every situation that file systems and users produce.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs::{self, File},
    io::{ErrorKind, Read as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Stdio},
    thread,
};

use poet_conformance::skip;
use poet_files::{
    Access, Output, create_directory, create_new, rename_into_place, replace, sync_parent,
};

fn run(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn open(path: &Path) -> Result<Output, String> {
    Output::open("--out", path).map_err(|error| error.to_string())
}

fn refused(path: &Path, reason: &str) {
    let error = open(path).unwrap_err();
    let start = format!("cannot write --out {}: ", path.display());
    assert_eq!(error, start + reason);
}

#[test]
fn a_regular_file_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let output = open(&path).unwrap();
    assert!(output.is_replaced());
    assert_eq!(names(folder.path()), [""; 0]);
    output.write(b"old").unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    let mut reader = File::open(&path).unwrap();
    output.write(b"new").unwrap();
    assert_eq!(text(&path), "new");
    assert_ne!(fs::metadata(&path).unwrap().ino(), inode);
    // A reader that has it open still sees the whole old content.
    let mut seen = String::new();
    reader.read_to_string(&mut seen).unwrap();
    assert_eq!(seen, "old");
    assert_eq!(names(folder.path()), ["out"]);
}

#[test]
fn modes_are_kept_or_those_of_the_umask() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    // The mode of a new file under the umask.
    let usual = folder.path().join("usual");
    File::create(&usual).unwrap();
    replace(&path, b"1", Access::Default).unwrap();
    assert_eq!(mode(&path), mode(&usual));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    replace(&path, b"2", Access::Default).unwrap();
    assert_eq!(mode(&path), 0o640);
    replace(&path, b"3", Access::Private).unwrap();
    assert_eq!(mode(&path), 0o600);
    let key = folder.path().join("key");
    create_new(&key, b"secret", Access::Private).unwrap();
    assert_eq!(mode(&key), 0o600);
    let again = create_new(&key, b"other", Access::Private).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    assert_eq!(text(&key), "secret");
    assert_eq!(names(folder.path()), ["key", "out", "usual"]);
}

#[test]
fn an_owner_is_kept() {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can give a file away");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    fs::write(&path, "").unwrap();
    std::os::unix::fs::chown(&path, Some(65_534), Some(65_534)).unwrap();
    replace(&path, b"new", Access::Default).unwrap();
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (65_534, 65_534));
}

#[test]
fn directories_are_created_with_their_parents() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b/c");
    create_directory(&path, Access::Private).unwrap();
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&folder.path().join("a")), 0o700);
    create_directory(&path, Access::Default).unwrap();
    assert_eq!(mode(&path), 0o700);
    let file = path.join("file");
    fs::write(&file, "").unwrap();
    let error = create_directory(&file, Access::Default).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotADirectory);
    assert!(create_directory(&file.join("d"), Access::Default).is_err());

    rename_into_place(&file, &folder.path().join("moved")).unwrap();
    assert_eq!(names(folder.path()), ["a", "moved"]);
    assert!(sync_parent(&folder.path().join("none/file")).is_err());
}

#[test]
fn the_target_of_a_link_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("data")).unwrap();
    fs::write(path("data/target"), "old").unwrap();
    // A chain, relative to where each link is.
    symlink("data/second", path("first")).unwrap();
    symlink("../data/target", path("data/second")).unwrap();
    symlink("data/new", path("dangling")).unwrap();
    symlink("none/new", path("lost")).unwrap();
    symlink("circle", path("circle")).unwrap();
    symlink("data", path("folder")).unwrap();

    open(&path("first")).unwrap().write(b"new").unwrap();
    assert_eq!(text(&path("data/target")), "new");
    open(&path("dangling")).unwrap().write(b"made").unwrap();
    assert_eq!(text(&path("data/new")), "made");
    for link in ["first", "dangling", "data/second"] {
        assert!(path(link).is_symlink(), "{link}");
    }
    assert_eq!(names(&path("data")), ["new", "second", "target"]);

    let none = path("none");
    refused(
        &path("lost"),
        &format!("the directory {} does not exist", none.display()),
    );
    refused(&path("circle"), "its symbolic links lead in a circle");
    refused(&path("folder"), "it is a directory");
    assert!(!path("none").exists());
}

#[test]
fn what_is_no_file_is_refused_before_the_wait() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("file"), "").unwrap();
    refused(folder.path(), "it is a directory");
    refused(
        &path("none/out"),
        &format!("the directory {} does not exist", path("none").display()),
    );
    refused(&path("file/out"), "a part of its path is not a directory");
    for name in ["out/", "file/", "out/."] {
        refused(&path(name), "it is the name of a directory");
    }
    refused(Path::new("/"), "it is the name of a directory");
    refused(Path::new(""), "it is the name of a directory");
    refused(Path::new(".."), "it is the name of a directory");
    let long = path(&"x".repeat(300));
    assert!(open(&long).unwrap_err().contains("the name is too long"));
    let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    refused(&path("socket"), "it is a socket");
    assert_eq!(names(folder.path()), ["file", "socket"]);
}

#[test]
fn a_device_stays_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let node = path("null");
    if !run("mknod", &[node.to_str().unwrap(), "c", "1", "3"]) {
        return skip("no device can be made here");
    }
    if fs::write(&node, "x").is_err() {
        return skip("the file system has no devices");
    }
    symlink("null", path("link")).unwrap();
    for name in ["null", "link"] {
        let output = open(&path(name)).unwrap();
        assert!(!output.is_replaced());
        output.write(b"lost").unwrap();
    }
    let kind = fs::symlink_metadata(&node).unwrap().file_type();
    assert!(kind.is_char_device());
    assert_eq!(names(folder.path()), ["link", "null"]);
    let error = Output::open_file("--state", &node).unwrap_err().to_string();
    assert!(error.ends_with(": it is not a regular file"), "{error}");

    let full = path("full");
    assert!(run("mknod", &[full.to_str().unwrap(), "c", "1", "7"]));
    let error = open(&full).unwrap().write(b"x").unwrap_err().to_string();
    assert!(error.ends_with(": no space left on the device"), "{error}");
}

#[test]
fn a_pipe_gets_the_content() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    assert!(run("mkfifo", &[path.to_str().unwrap()]));
    // The check does not block.
    let output = open(&path).unwrap();
    let reader = thread::spawn({
        let path = path.clone();
        move || text(&path)
    });
    output.write(b"content").unwrap();
    assert_eq!(reader.join().unwrap(), "content");
    assert!(fs::symlink_metadata(&path).unwrap().file_type().is_fifo());
}

#[test]
fn a_full_disk_leaves_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let mount = folder.path().join("disk");
    fs::create_dir(&mount).unwrap();
    let at = mount.to_str().unwrap();
    if !run("mount", &["-t", "tmpfs", "-o", "size=64k", "none", at]) {
        return skip("nothing can be mounted here");
    }
    let path = mount.join("out");
    let output = open(&path).unwrap();
    output.write(b"old").unwrap();
    let error = output.write(&vec![0; 1 << 17]).unwrap_err().to_string();
    let left = (text(&path), names(&mount));
    assert!(run("umount", &[at]));
    assert!(error.ends_with(": no space left on the device"), "{error}");
    assert_eq!(left, ("old".to_owned(), vec!["out".to_owned()]));
}

/// The remaining tests need their own process: this one, started again.
const ROLE: &str = "POET_FILES_TEST";

fn again(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(ROLE, role);
    command
}

#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    // Printed last, because the harness prints to standard output, too.
    match role.split_once(' ').unwrap() {
        ("write", path) => {
            let output = open(Path::new(path)).unwrap();
            println!("printed");
            output.write(b"written\n").unwrap();
            println!("printed again");
            std::process::exit(0);
        }
        ("try", path) => {
            println!("{}", open(Path::new(path)).unwrap_err());
            std::process::exit(0);
        }
        _ => panic!("no such role"),
    }
}

#[test]
fn standard_output_and_descriptors_are_written_to() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
        let output = again(&format!("write {name}")).output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        let expected = "printed\nwritten\nprinted again\n";
        assert!(printed.ends_with(expected), "{name}: {printed}");

        // A file that a shell has opened is not replaced either.
        let path = folder.path().join("redirected");
        let file = File::create(&path).unwrap();
        let status = again(&format!("write {name}")).stdout(file).status();
        assert!(status.unwrap().success());
        let printed = text(&path);
        assert!(printed.ends_with(expected), "{name}: {printed}");
    }
    let output = again("write /dev/stderr").output().unwrap();
    assert!(output.stderr.ends_with(b"written\n"));

    // As a shell's >(cat).
    let path = folder.path().join("substituted");
    let shell = format!("exec 9> {}; echo first >&9; \"$0\" \"$@\"", path.display());
    let mut command = Command::new("sh");
    command
        .args(["-c", &shell])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(ROLE, "write /dev/fd/9");
    assert!(command.status().unwrap().success());
    assert_eq!(text(&path), "first\nwritten\n");
}

#[test]
fn a_reader_that_has_gone_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    assert!(run("mkfifo", &[path.to_str().unwrap()]));
    let output = open(&path).unwrap();
    let reader = thread::spawn(move || File::open(path).unwrap().read_exact(&mut [0]).unwrap());
    // More than a pipe holds.
    let error = output.write(&vec![0; 1 << 21]).unwrap_err().to_string();
    reader.join().unwrap();
    assert!(error.ends_with(": its reader has closed it"), "{error}");
}

#[test]
fn what_is_not_permitted_is_refused_before_the_wait() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let set = |name: &str, mode| {
        fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    set("", 0o755);
    fs::create_dir(path("closed")).unwrap();
    set("closed", 0o555);
    fs::create_dir(path("open")).unwrap();
    fs::write(path("open/protected"), "").unwrap();
    set("open", 0o777);
    set("open/protected", 0o444);
    let tried = |name: &str| {
        let mut command = again(&format!("try {}", path(name).display()));
        // Root is refused nothing, so root asks as another user.
        if rustix::process::geteuid().is_root() {
            command.uid(65_534).gid(65_534);
        }
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let closed = tried("closed/out");
    let expected = format!(
        "no file can be created in {}: permission denied\n",
        path("closed").display()
    );
    assert!(closed.ends_with(&expected), "{closed}");
    let protected = tried("open/protected");
    assert!(
        protected.ends_with("open/protected: permission denied\n"),
        "{protected}"
    );
}

#[test]
fn outputs_and_inputs_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("a"), "").unwrap();
    symlink("a", path("link")).unwrap();
    fs::create_dir(path("d")).unwrap();
    let a = open(&path("a")).unwrap();
    assert!(a.is_same(&open(&path("link")).unwrap()));
    assert!(a.is_same(&open(&path("d/../a")).unwrap()));
    assert!(!a.is_same(&open(&path("b")).unwrap()));
    assert!(a.overwrites(&path("link")));
    assert!(!a.overwrites(&path("b")));
    let stdout = open(Path::new("-")).unwrap();
    assert!(stdout.is_stdout());
    assert!(stdout.is_same(&open(Path::new("/dev/stdout")).unwrap()));
    assert!(!stdout.is_same(&a));
    assert!(!stdout.overwrites(Path::new("-")));
}
