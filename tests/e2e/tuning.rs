//! `portcullis tune`, on a root directory made for it: this machine's settings stay as they are.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

const IDLE: &str = "net/ipv4/tcp_slow_start_after_idle";
const QUEUE: &str = "net/core/somaxconn";

#[test]
fn settings_are_shown_applied_and_restored() {
    let root = machine();
    let (code, text) = tune(&root, &[]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("differs  net.core.somaxconn = 128"), "{text}");
    assert!(text.contains("More: tuning/accept.md"), "{text}");
    assert!(!root.path().join("var").exists(), "it is dry by default");
    assert_eq!(setting(&root, QUEUE), "128");

    let (code, text) = tune(&root, &["--apply"]);
    assert_eq!(code, 0, "{text}");
    let line = "set      net.core.somaxconn = 4096 (it was 128)\n";
    assert!(text.contains(line), "{text}");
    assert_eq!(
        (setting(&root, QUEUE), setting(&root, IDLE)),
        both("4096", "0")
    );
    assert_eq!(setting(&root, "kernel/io_uring_disabled"), "1");
    let record = fs::read_to_string(root.path().join("var/lib/portcullis/tune.json")).unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["changes"][0]["path"], "/proc/sys/net/core/somaxconn");

    let (code, text) = tune(&root, &["--json"]);
    assert_eq!(code, 0, "{text}");
    let report: Value = serde_json::from_str(&text).unwrap();
    let states = report["settings"].as_array().unwrap();
    let differs = |setting: &&Value| setting["state"] == "differs";
    assert_eq!(states.iter().filter(differs).count(), 0, "{text}");

    fs::write(root.path().join("proc/sys").join(IDLE), "1\n").unwrap();
    let (code, text) = tune(&root, &["--undo", "--json"]);
    assert_eq!(code, 0, "{text}");
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["changes"][0]["outcome"], "already", "{text}");
    assert_eq!(report["changes"][1]["outcome"], "set", "{text}");
    assert_eq!(
        (setting(&root, QUEUE), setting(&root, IDLE)),
        both("128", "1")
    );

    let (code, text) = tune(&root, &["--undo"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("Nothing is recorded"), "{text}");
}

/// One of each kind that is set.
#[test]
fn cards_processors_and_a_module_are_shown_applied_and_restored() {
    let root = machine();
    let list = "kernel/net/tls/tls.ko:\n";
    let module = root.path().join("sys/module/tls");
    let modprobe = format!(
        "#!/bin/sh\ncase $1 in tls) mkdir -p {0}; echo 0 > {0}/refcnt;; -r) rm -r {0};; esac\n",
        module.display()
    );
    let governor = "sys/devices/system/cpu/cpufreq/policy0/scaling_governor";
    let steering = "sys/class/net/eth0/queues/rx-0/rps_cpus";
    for (path, text) in [
        ("proc/sys/kernel/osrelease", "6.12.1"),
        ("lib/modules/6.12.1/modules.dep", list),
        ("sbin/modprobe", &modprobe),
        ("sys/devices/system/cpu/online", "0-1"),
        (governor, "powersave"),
        (
            "sys/devices/system/cpu/cpufreq/policy0/scaling_available_governors",
            "performance powersave",
        ),
        ("sys/class/net/eth0/flags", "0x1003"),
        ("sys/class/net/eth0/device/uevent", ""),
        (steering, "0"),
    ] {
        put(&root, path, text);
    }
    let program = root.path().join("sbin/modprobe");
    fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    let (code, text) = tune(&root, &[]);
    assert_eq!(code, 1, "{text}");
    for line in [
        "differs  rps_cpus eth0/rx-0 = 0, recommended: some CPUs\n",
        "To set: echo 3 > /sys/class/net/eth0/queues/rx-0/rps_cpus\n",
        "differs  tls = unloaded, recommended: loaded\n",
        "differs  scaling_governor policy0 = powersave, recommended: performance\n",
        "absent   xps_cpus\n",
        "absent   RLIMIT_NOFILE\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
    let (code, text) = tune(&root, &["--apply"]);
    assert_eq!(code, 0, "{text}");
    assert!(module.exists(), "{text}");
    assert_eq!(
        (get(&root, steering), get(&root, governor)),
        both("3", "performance")
    );
    put(&root, governor, "schedutil");
    let (code, text) = tune(&root, &["--undo"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("kept     scaling_governor policy0"), "{text}");
    assert!(!module.exists(), "{text}");
    assert_eq!(
        (get(&root, steering), get(&root, governor)),
        both("0", "schedutil")
    );
}

#[test]
fn what_may_not_be_set_is_refused_with_one_message() {
    let root = machine();
    let path = root.path().join("proc/sys").join(QUEUE);
    fs::remove_file(&path).unwrap();
    // A number that not even the superuser may write.
    std::os::unix::fs::symlink("/proc/sys/kernel/cap_last_cap", &path).unwrap();
    let output = command(&root, &["--apply"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        message.contains("may not set net.core.somaxconn"),
        "{message}"
    );
    assert!(message.contains("nothing was changed"), "{message}");
    assert!(output.stdout.is_empty());
    assert_eq!(setting(&root, IDLE), "1");
}

fn machine() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (name, value) in [
        (QUEUE, "128"),
        (IDLE, "1"),
        ("kernel/io_uring_disabled", "1"),
        ("kernel/random/boot_id", "f00"),
    ] {
        put(&root, &format!("proc/sys/{name}"), value);
    }
    root
}

fn put(root: &TempDir, path: &str, text: &str) {
    let path = root.path().join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("{text}\n")).unwrap();
}

fn tune(root: &TempDir, options: &[&str]) -> (i32, String) {
    let output = command(root, options).output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code().unwrap(), text)
}

fn command(root: &TempDir, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.arg("tune").args(options);
    command.arg("--root").arg(root.path());
    command
}

fn setting(root: &TempDir, name: &str) -> String {
    get(root, &format!("proc/sys/{name}"))
}

fn get(root: &TempDir, path: &str) -> String {
    let value = fs::read_to_string(root.path().join(path)).unwrap();
    value.trim().to_owned()
}

fn both(first: &str, second: &str) -> (String, String) {
    (first.to_owned(), second.to_owned())
}
