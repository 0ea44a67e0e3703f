//! `mcrd reflect nic INTERFACE`: what an interface can do, as far as the system tells without rights.

use std::{fs, path::Path};

use mcr_netmon::{Monitor, XdpFeatures};

use super::NOT_FOUND;
use crate::exit::Failure;

pub(super) fn report(interface: &str) -> Result<(), Failure> {
    let monitor = Monitor::open().map_err(|error| Failure::failed(format!("reflect nic: {error}")))?;
    let Some(link) = monitor.snapshot().link_by_name(interface) else {
        let message = format!("reflect nic: no interface {interface}; `ip link` lists those there are");
        return Err(Failure::with_code(NOT_FOUND, message));
    };
    let directory = Path::new("/sys/class/net").join(interface);
    let read = |file: &str| fs::read_to_string(directory.join(file)).ok().map(|text| text.trim().to_owned());
    let driver = fs::read_link(directory.join("device/driver")).ok();
    let driver = driver.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    let driver = driver.or_else(|| link.driver.clone()).unwrap_or_else(|| "unknown".into());
    let mac = link.mac.map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":"));
    let speed = read("speed").and_then(|speed| speed.parse::<i64>().ok()).filter(|speed| *speed > 0);
    let features = XdpFeatures::of(link.index).ok().flatten();
    let lines = [
        ("interface", interface.to_owned()),
        ("driver", driver),
        ("address", mac.unwrap_or_else(|| "none: it cannot reflect".into())),
        ("mtu", link.mtu.to_string()),
        (
            "state",
            if link.running {
                "up"
            } else if link.up {
                "up, no carrier"
            } else {
                "down"
            }
            .into(),
        ),
        ("speed", speed.map_or("unknown".into(), |speed| format!("{speed} Mb/s"))),
        ("receive queues", queues(&directory, "rx-")),
        ("send queues", queues(&directory, "tx-")),
        ("vlan tags", vlan_tags(interface)),
        (
            "xdp",
            features.map_or_else(|| "unknown: the kernel does not tell (Linux 6.3 does)".into(), describe),
        ),
        ("platform", recommended(features).into()),
    ];
    let text: String = lines.iter().map(|(name, value)| format!("{name:<16}{value}\n")).collect();
    let _ = std::io::Write::write_all(&mut std::io::stdout().lock(), text.as_bytes());
    Ok(())
}

/// The kernel's own names of what the driver can do.
fn describe(features: XdpFeatures) -> String {
    let XdpFeatures { basic, redirect, ndo_xmit, zero_copy, offload, receive_parts, timestamp, vlan_tag } =
        features;
    let each = [
        (basic, "basic"),
        (redirect, "redirect"),
        (ndo_xmit, "ndo-xmit"),
        (zero_copy, "xsk-zerocopy"),
        (offload, "hw-offload"),
        (receive_parts, "rx-sg"),
        (timestamp, "rx-timestamp"),
        (vlan_tag, "rx-vlan-tag"),
    ];
    let able: Vec<_> = each.iter().filter(|(is, _)| *is).map(|(_, name)| *name).collect();
    if able.is_empty() { "none in the driver".into() } else { able.join(", ") }
}

/// What `--platform auto` tries first, by what the driver says. Whether it loads is seen when it is tried.
fn recommended(features: Option<XdpFeatures>) -> &'static str {
    match features {
        Some(XdpFeatures { basic: true, redirect: true, zero_copy: true, .. }) => {
            "xdp, without copying (xdp-zerocopy)"
        }
        Some(XdpFeatures { basic: true, redirect: true, .. }) => "xdp, copying (xdp-native)",
        Some(_) => "xdp in the stack (xdp-generic), or packet",
        None => "auto: what loads is told in the statistics",
    }
}

/// Whether AF_XDP gets frames with their tags.
fn vlan_tags(interface: &str) -> String {
    match mcr_supervisor::reflect::takes_vlan_tags_out(interface) {
        Ok(false) => "left in frames".into(),
        Ok(true) => format!(
            "taken out by a NIC (rxvlan); for replies with tags on AF_XDP: ethtool -K {interface} rxvlan off"
        ),
        Err(_) => "unknown: the driver does not tell".into(),
    }
}

fn queues(directory: &Path, prefix: &str) -> String {
    let Ok(entries) = fs::read_dir(directory.join("queues")) else { return "unknown".into() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.starts_with(prefix)).count().to_string()
}
