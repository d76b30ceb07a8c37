//! Each kind of setting on a machine made for it: shown, applied, changed by somebody else, undone.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use tempfile::TempDir;

use super::change::{Done, Outcome, Refused, apply, undo};
use super::machine::testing::{contents, differs, machine, put, right, set, state};
use super::machine::{Machine, State};
use super::record;
use super::report;

const GOVERNOR: &str = "sys/devices/system/cpu/cpufreq/policy0/scaling_governor";
const OTHER_GOVERNOR: &str = "sys/devices/system/cpu/cpufreq/policy10/scaling_governor";
const STEERING: &str = "sys/class/net/eth0/queues/rx-0/rps_cpus";
const FLOWS: &str = "sys/class/net/eth0/queues/rx-0/rps_flow_cnt";
const MODULE: &str = "sys/module/tls";

/// A small number that can be read and that not even the superuser may write.
const UNWRITABLE: &str = "/proc/sys/kernel/cap_last_cap";

/// Four CPUs, a card with one queue, an interface without a device and one that is down.
fn server() -> (TempDir, Machine) {
    let (root, machine) = machine(&[("net.core.rps_sock_flow_entries", "0")]);
    put(&root, "sys/devices/system/cpu/online", "0-3\n");
    for path in [GOVERNOR, OTHER_GOVERNOR] {
        put(&root, path, "powersave\n");
        let offered = path.replace("scaling_governor", "scaling_available_governors");
        put(&root, &offered, "performance powersave\n");
    }
    for (interface, flags) in [
        ("lo", "0x9"),
        ("eth0", "0x1003"),
        ("br0", "0x1003"),
        ("eth1", "0x1002"),
    ] {
        let folder = format!("sys/class/net/{interface}");
        put(&root, &format!("{folder}/flags"), flags);
        put(&root, &format!("{folder}/queues/rx-0/rps_cpus"), "0\n");
        put(&root, &format!("{folder}/queues/rx-0/rps_flow_cnt"), "0\n");
        put(&root, &format!("{folder}/threaded"), "0\n");
    }
    for interface in ["eth0", "eth1"] {
        put(
            &root,
            &format!("sys/class/net/{interface}/device/uevent"),
            "",
        );
    }
    (root, machine)
}

/// A kernel that has the module, and a modprobe(8) that loads and unloads it.
fn with_module(root: &TempDir) {
    set(root, "kernel.osrelease", "6.12.1");
    set(root, "kernel.modprobe", "/usr/sbin/modprobe");
    let list = "kernel/net/tls/tls_device.ko:\nkernel/net/tls/tls.ko.zst: kernel/a.ko\n";
    put(root, "lib/modules/6.12.1/modules.dep", list);
    let folder = root.path().join(MODULE);
    let folder = folder.display();
    let script = format!(
        "#!/bin/sh\nset -e\ncase $* in\ntls) mkdir -p {folder}; echo 0 > {folder}/refcnt;;\n\
         '-r tls') rm -r {folder};;\n*) echo what? >&2; exit 1;;\nesac\n"
    );
    put(root, "usr/sbin/modprobe", &script);
    let program = root.path().join("usr/sbin/modprobe");
    fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
}

fn outcomes(done: &[Done]) -> Vec<(&str, &Outcome)> {
    done.iter()
        .map(|done| (done.name.as_str(), &done.outcome))
        .collect()
}

#[test]
fn files_of_every_cpu_and_queue_are_set_and_restored() {
    let (root, machine) = server();
    let steering = differs("0", "f");
    assert_eq!(state(&machine, "rps_cpus eth0/rx-0"), steering);
    let done = apply(&machine).unwrap();
    let set = &Outcome::Set;
    let all = [
        ("rps_cpus eth0/rx-0", set),
        ("net.core.rps_sock_flow_entries", set),
        ("rps_flow_cnt eth0/rx-0", set),
        ("scaling_governor policy0", set),
        ("scaling_governor policy10", set),
    ];
    assert_eq!(outcomes(&done), all);
    let now = [STEERING, FLOWS, GOVERNOR, OTHER_GOVERNOR].map(|path| contents(&root, path));
    assert_eq!(now, ["f", "32768", "performance", "performance"]);
    assert_eq!(apply(&machine).unwrap(), []);
    // Somebody else chooses other CPUs, and one governor's policy goes with its CPU.
    put(&root, STEERING, "2\n");
    fs::remove_file(root.path().join(OTHER_GOVERNOR)).unwrap();
    let done = undo(&machine).unwrap().unwrap();
    let all = [
        ("scaling_governor policy10", &Outcome::Gone),
        ("scaling_governor policy0", set),
        ("rps_flow_cnt eth0/rx-0", set),
        ("net.core.rps_sock_flow_entries", set),
        ("rps_cpus eth0/rx-0", &Outcome::ChangedSince),
    ];
    assert_eq!(outcomes(&done), all);
    let now = [STEERING, FLOWS, GOVERNOR].map(|path| contents(&root, path));
    assert_eq!(now, ["2", "0", "powersave"]);
    assert_eq!(record::load(&machine.record_directory()).unwrap(), None);
}

#[test]
fn interfaces_without_a_device_and_those_that_are_down_are_left_out() {
    let (root, machine) = server();
    apply(&machine).unwrap();
    for interface in ["lo", "br0", "eth1"] {
        let path = format!("sys/class/net/{interface}/queues/rx-0/rps_cpus");
        assert_eq!(contents(&root, &path), "0", "{interface}");
    }
    let names = machine.survey().into_iter().map(|found| found.setting.name);
    let threaded: Vec<String> = names.filter(|name| name.starts_with("threaded")).collect();
    assert_eq!(threaded, ["threaded eth0"]);
    // It has gone down since: what was set is restored all the same.
    put(&root, "sys/class/net/eth0/flags", "0x1002");
    undo(&machine).unwrap();
    assert_eq!(contents(&root, STEERING), "0");
}

#[test]
fn steering_is_asked_for_where_queues_are_fewer_or_as_many() {
    let (root, machine) = server();
    put(&root, "sys/class/net/eth0/queues/rx-1/rps_cpus", "0\n");
    for queue in ["0", "1", "2", "3", "10"] {
        let path = format!("sys/class/net/eth0/queues/tx-{queue}/xps_cpus");
        put(&root, &path, "00\n");
    }
    put(&root, "sys/class/net/eth0/queues/tx-1/xps_cpus", "f\n");
    // Two receive queues: theirs is not the case that the guide has in mind.
    assert_eq!(state(&machine, "rps_cpus eth0/rx-0"), right("0"));
    let entries = state(&machine, "net.core.rps_sock_flow_entries");
    assert_eq!(entries, right("0"));
    assert_eq!(state(&machine, "xps_cpus eth0/tx-0"), differs("00", "1"));
    assert_eq!(state(&machine, "xps_cpus eth0/tx-1"), right("f"));
    assert_eq!(state(&machine, "xps_cpus eth0/tx-3"), differs("00", "8"));
    assert_eq!(state(&machine, "xps_cpus eth0/tx-10"), right("00"));
    fs::remove_dir_all(root.path().join("sys/class/net/eth0/queues/tx-3")).unwrap();
    fs::remove_dir_all(root.path().join("sys/class/net/eth0/queues/tx-10")).unwrap();
    assert_eq!(state(&machine, "xps_cpus eth0/tx-0"), right("00"));
    // One CPU has nobody to hand packets to.
    fs::remove_dir_all(root.path().join("sys/class/net/eth0/queues/rx-1")).unwrap();
    assert_eq!(state(&machine, "rps_cpus eth0/rx-0"), differs("0", "f"));
    put(&root, "sys/devices/system/cpu/online", "0\n");
    assert_eq!(state(&machine, "rps_cpus eth0/rx-0"), right("0"));
}

#[test]
fn the_processor_s_own_governor_is_asked_by_its_preference() {
    let (root, machine) = server();
    let beside = |name: &str| GOVERNOR.replace("scaling_governor", name);
    put(&root, &beside("energy_performance_preference"), "power\n");
    let offered = beside("energy_performance_available_preferences");
    put(
        &root,
        &offered,
        "default performance balance_performance power\n",
    );
    assert_eq!(
        state(&machine, "scaling_governor policy0"),
        right("powersave")
    );
    let name = "energy_performance_preference policy0";
    assert_eq!(
        state(&machine, name),
        differs("power", "balance_performance")
    );
    apply(&machine).unwrap();
    assert_eq!(state(&machine, name), right("balance_performance"));
    assert_eq!(contents(&root, OTHER_GOVERNOR), "performance");
    // One that is not offered could not be set.
    put(&root, &offered, "default performance power\n");
    put(&root, &beside("energy_performance_preference"), "power\n");
    assert_eq!(state(&machine, name), right("power"));
}

#[test]
fn a_module_is_loaded_and_unloaded_unless_it_is_in_use() {
    let (root, machine) = machine(&[]);
    assert_eq!(state(&machine, "tls"), State::Absent);
    with_module(&root);
    assert_eq!(state(&machine, "tls"), differs("unloaded", "loaded"));
    let text = report::survey(&machine.survey());
    assert!(text.contains("To set: modprobe tls\n"), "{text}");
    let set = &Outcome::Set;
    assert_eq!(outcomes(&apply(&machine).unwrap()), [("tls", set)]);
    assert_eq!(state(&machine, "tls"), right("loaded"));
    put(&root, "sys/module/tls/refcnt", "3\n");
    let done = undo(&machine).unwrap().unwrap();
    let failed = &done.first().unwrap().outcome;
    assert!(
        matches!(failed, Outcome::Failed(why) if why.contains("in use (3)")),
        "{failed:?}"
    );
    // It stays recorded, and is undone when nobody uses it any more.
    put(&root, "sys/module/tls/refcnt", "0\n");
    assert_eq!(outcomes(&undo(&machine).unwrap().unwrap()), [("tls", set)]);
    assert!(!root.path().join(MODULE).exists());
    assert_eq!(undo(&machine).unwrap(), None);
}

#[test]
fn a_module_that_cannot_be_loaded_says_why() {
    let (root, machine) = machine(&[]);
    with_module(&root);
    put(
        &root,
        "usr/sbin/modprobe",
        "#!/bin/sh\necho no such key >&2\nexit 1\n",
    );
    let done = apply(&machine).unwrap();
    let failed = &done.first().unwrap().outcome;
    assert!(
        matches!(failed, Outcome::Failed(why) if why == "modprobe: no such key"),
        "{failed:?}"
    );
    assert_eq!(record::load(&machine.record_directory()).unwrap(), None);
    // Without the right to, nothing is tried.
    put(
        &root,
        "proc/self/status",
        "Name:\tx\nCapEff:\t000001ffffff0000\n",
    );
    apply(&machine).unwrap();
    put(
        &root,
        "proc/self/status",
        "Name:\tx\nCapEff:\t000001fffffeffff\n",
    );
    assert!(matches!(apply(&machine), Err(Refused::Setting { .. })));
    set(&root, "kernel.modules_disabled", "1");
    assert!(matches!(state(&machine, "tls"), State::Unknown { .. }));
    // Built in, it has no directory.
    set(&root, "net.ipv4.tcp_available_ulp", "espintcp tls mptcp");
    assert_eq!(state(&machine, "tls"), right("loaded"));
}

#[test]
fn one_file_that_may_not_be_written_keeps_all_as_they_are() {
    let (root, machine) = server();
    let path = root.path().join(FLOWS);
    fs::remove_file(&path).unwrap();
    symlink(UNWRITABLE, &path).unwrap();
    match apply(&machine) {
        Err(Refused::Setting { name, .. }) => assert_eq!(name, "rps_flow_cnt eth0/rx-0"),
        other => panic!("{other:?}"),
    }
    assert_eq!(contents(&root, STEERING), "0");
    assert_eq!(contents(&root, GOVERNOR), "powersave");
}

#[test]
fn what_is_not_understood_is_neither_judged_nor_set() {
    let (root, machine) = server();
    put(&root, STEERING, "all\n");
    put(&root, GOVERNOR, "turbo\n");
    for name in ["rps_cpus eth0/rx-0", "scaling_governor policy0"] {
        assert!(
            matches!(state(&machine, name), State::Unknown { .. }),
            "{name}"
        );
    }
    apply(&machine).unwrap();
    assert_eq!(
        (&*contents(&root, STEERING), &*contents(&root, GOVERNOR)),
        ("all", "turbo")
    );
}

#[test]
fn a_record_names_only_files_that_could_be_set() {
    for (name, path, old) in [
        (
            "scaling_governor policy0",
            "/sys/devices/system/cpu/cpufreq/policy0/../x",
            "powersave",
        ),
        (
            "scaling_governor policy0",
            "/sys/devices/system/cpu/cpufreq/policy0/uevent",
            "powersave",
        ),
        (
            "scaling_governor policy0",
            "/sys/devices/system/cpu/cpufreq/policy1/scaling_governor",
            "powersave",
        ),
        (
            "scaling_governor policy0",
            "/sys/devices/system/cpu/cpufreq/policy0/scaling_governor",
            "|sh",
        ),
        (
            "rps_cpus ../rx-0",
            "/sys/class/net/../queues/rx-0/rps_cpus",
            "0",
        ),
        ("threaded eth0", "/sys/class/net/eth0/threaded", "0"),
        ("tls", "/sys/module/other", "unloaded"),
    ] {
        let (_root, machine) = server();
        apply(&machine).unwrap();
        let mut record = record::load(&machine.record_directory()).unwrap().unwrap();
        let change = record.changes.first_mut().unwrap();
        (change.name, change.path) = (name.to_owned(), path.to_owned());
        (change.old, change.new) = (old.to_owned(), old.to_owned());
        let store = record::Store::open(&machine.record_directory()).unwrap();
        store.save(&record).unwrap();
        drop(store);
        let refused = undo(&machine);
        assert!(
            matches!(refused, Err(Refused::Foreign { .. })),
            "{name} {path}: {refused:?}"
        );
    }
}

#[test]
fn the_service_that_runs_is_looked_at_and_left() {
    let (root, machine) = machine(&[("kernel.osrelease", "6.12.1")]);
    let limits = "Max open files            1024                 4096                 files     \n\
                  Max locked memory         8388608              8388608              bytes     \n";
    for (process, comm, command) in [
        ("7", "portcullis", "portcullis\0run\0--config\0a.toml\0"),
        ("12", "portcullis", "portcullis\0tune\0"),
        ("13", "nginx", "nginx\0run\0"),
    ] {
        put(&root, &format!("proc/{process}/comm"), &format!("{comm}\n"));
        put(&root, &format!("proc/{process}/cmdline"), command);
        put(&root, &format!("proc/{process}/limits"), limits);
        put(
            &root,
            &format!("proc/{process}/cgroup"),
            "1:cpu:/old\n0::/system.slice/p.service\n",
        );
    }
    let group = "sys/fs/cgroup/system.slice/p.service";
    put(&root, &format!("{group}/memory.high"), "max\n");
    put(&root, &format!("{group}/cpu.max"), "50000 100000\n");
    put(&root, "sys/fs/cgroup/system.slice/cpu.max", "max 100000\n");
    put(&root, &format!("{group}/pids.max"), "64\n");
    let of = |name| state(&machine, name);
    assert_eq!(of("RLIMIT_NOFILE 7"), differs("4096", "1048576"));
    // Too little before Linux 5.12 only.
    assert_eq!(of("RLIMIT_MEMLOCK 7"), right("8388608"));
    set(&root, "kernel.osrelease", "5.10.0-18-amd64");
    assert_eq!(of("RLIMIT_MEMLOCK 7"), differs("8388608", "67108864"));
    assert_eq!(of("memory.high /system.slice/p.service"), right("max"));
    assert_eq!(
        of("cpu.max /system.slice/p.service"),
        differs("50000 100000", "max")
    );
    assert_eq!(of("cpu.max /system.slice"), right("max 100000"));
    assert_eq!(
        of("pids.max /system.slice/p.service"),
        differs("64", "1024")
    );
    assert_eq!(of("memory.max"), State::Absent);
    let found = machine.survey();
    assert!(
        !found.iter().any(|it| it.setting.name.ends_with(" 12")),
        "it does not serve"
    );
    assert_eq!(report::exit_code(&found), 0, "all of it is left");
    let text = report::survey(&found);
    let line = "To set: systemctl edit portcullis, and below [Service] LimitNOFILE=1048576\n";
    assert!(text.contains(line), "{text}");
    assert_eq!(apply(&machine).unwrap(), []);
    assert_eq!(contents(&root, &format!("{group}/pids.max")), "64");
}

#[test]
fn what_costs_somebody_else_is_shown_and_left() {
    let (root, machine) = machine(&[("kernel.numa_balancing", "1")]);
    for (cpu, name, latency_us) in [
        ("cpu0", "state0", "0"),
        ("cpu0", "state2", "400"),
        ("cpu1", "state2", "400"),
    ] {
        let folder = format!("sys/devices/system/cpu/{cpu}/cpuidle/{name}");
        put(&root, &format!("{folder}/latency"), latency_us);
        put(&root, &format!("{folder}/disable"), "0\n");
    }
    put(
        &root,
        "sys/kernel/mm/transparent_hugepage/enabled",
        "[always] madvise never\n",
    );
    put(
        &root,
        "sys/devices/system/clocksource/clocksource0/current_clocksource",
        "hpet\n",
    );
    put(
        &root,
        "sys/devices/system/cpu/smt/control",
        "notsupported\n",
    );
    put(&root, "proc/cmdline", "quiet init_on_alloc=1\n");
    let of = |name| state(&machine, name);
    assert_eq!(of("cpuidle cpu0/state0"), right("0"));
    assert_eq!(of("cpuidle cpu1/state2"), differs("0", "1"));
    assert_eq!(of("transparent_hugepage"), differs("always", "madvise"));
    assert_eq!(of("current_clocksource"), differs("hpet", "tsc"));
    assert_eq!(of("smt"), right("notsupported"));
    assert_eq!(of("kernel.numa_balancing"), right("1"));
    fs::create_dir_all(root.path().join("sys/devices/system/node/node1")).unwrap();
    assert_eq!(of("kernel.numa_balancing"), differs("1", "0"));
    let depends = |current: &str| State::Depends {
        current: current.to_owned(),
    };
    assert_eq!(of("init_on_alloc"), depends("1"));
    assert_eq!(of("mitigations"), State::Absent);
    let found = machine.survey();
    assert_eq!(report::exit_code(&found), 0);
    let text = report::survey(&found);
    for part in [
        "left     cpuidle cpu0/state2 and 1 more = 0, recommended: 1\n",
        "cpu0/cpuidle/state2/disable, and the others alike\n",
        "left     init_on_alloc = 1\n",
        "absent   mitigations\n",
        "This machine is as the guide recommends.",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert_eq!(apply(&machine).unwrap(), []);
}
