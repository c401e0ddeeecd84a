//! `linux.netDevices`: network devices of the host that become the container's.
//!
//! The creator has the power over both network namespaces, but no way into the new one that would not
//! change its own; the container's process is inside. So the process opens a netlink socket there and
//! hands it over ([`crate::process::channel::FromChild::NetDevices`]), and the creator does all of it,
//! before any sysctl is set and any hook runs. A container without devices does none of this.
//!
//! The move closes a device, and the kernel forgets its addresses with that: those that the specification
//! names (permanent, of global scope, of any family) are read before and written again after, with all
//! attributes that the kernel told. The name inside is checked before: a rename that fails after the move
//! would leave the device among strangers. Its number there is chosen before too, so that it is found again
//! under whatever name the kernel makes of a template (`eth%d`).
//!
//! Once the container exists its devices are the namespace's: what is in a namespace that ends, the kernel
//! moves to the host's first one (hardware) or destroys (veth, macvlan). Only a creation that fails takes
//! back what it took, for there never was a container.
//!
//! `config-linux.md`, "Network Devices".

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use oci_spec::runtime::Linux;

use crate::error::{Context, Error, ErrorKind, Failure, Result};
use crate::netlink::{Request, Socket, attributes, number};
use crate::sys;

/// A device to move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    /// `linux.netDevices["eth0"]`
    pub field: String,
    /// In the creator's namespace.
    name: String,
    /// In the container's; with `%d` the kernel finds a number.
    target: String,
}

/// Brings the loopback interface of the calling process' network namespace up.
///
/// # Errors
/// Those of the ioctl (netdevice(7)).
pub fn bring_loopback_up() -> Result<()> {
    sys::process::loopback_up().context("bring up", "lo")
}

/// The devices of a validated configuration, by name.
pub(crate) fn plan(linux: &Linux) -> Vec<Device> {
    let mut devices: Vec<Device> = linux
        .net_devices()
        .iter()
        .flatten()
        .map(|(name, device)| Device {
            field: format!("linux.netDevices[{name:?}]"),
            target: target_name(device.name().as_deref(), name).to_owned(),
            name: name.clone(),
        })
        .collect();
    devices.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    devices
}

/// The name inside: without one, or with an empty one as Go programs write it, the name outside.
pub(crate) fn target_name<'a>(asked: Option<&'a str>, outside: &'a str) -> &'a str {
    asked.filter(|name| !name.is_empty()).unwrap_or(outside)
}

impl Device {
    fn is_template(&self) -> bool {
        self.target.contains('%')
    }

    fn error(&self, reason: impl Into<String>) -> Error {
        Error::new(ErrorKind::System, "move", &self.field, reason)
    }
}

/// `struct ifinfomsg`: family u8, padding u8, type u16, index i32, flags u32, change u32.
const LINK_HEADER: usize = 16;
/// `struct ifaddrmsg`: family u8, prefix length u8, flags u8, scope u8, index u32.
const ADDRESS_HEADER: usize = 8;

/// A network device as the kernel tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Link {
    index: u32,
    name: String,
    up: bool,
}

impl Link {
    fn read(body: &[u8]) -> Option<Self> {
        let attributes = attributes(body, LINK_HEADER);
        let (_, name) = attributes.iter().find(|(kind, _)| *kind == libc::IFLA_IFNAME)?;
        let name = name.split(|&b| b == 0).next().unwrap_or_default();
        Some(Self {
            index: number(body, 4)?,
            name: String::from_utf8_lossy(name).into_owned(),
            up: number(body, 8)? & libc::IFF_UP as u32 != 0,
        })
    }

    fn header(index: u32, flags: u32) -> [u8; LINK_HEADER] {
        let mut header = [0; LINK_HEADER];
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        header[8..12].copy_from_slice(&flags.to_ne_bytes());
        // Which flags are meant.
        header[12..].copy_from_slice(&flags.to_ne_bytes());
        header
    }
}

/// The message that makes an address, but for the number of the device.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Address {
    header: [u8; ADDRESS_HEADER],
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Address {
    /// The address of a message, when it is one to keep of the device `index`.
    fn read(body: &[u8], index: u32) -> Option<Self> {
        let header: [u8; ADDRESS_HEADER] = body.get(..ADDRESS_HEADER)?.try_into().ok()?;
        let attributes = attributes(body, ADDRESS_HEADER);
        let long = attributes.iter().find(|(kind, _)| *kind == libc::IFA_FLAGS);
        let flags = long.and_then(|(_, flags)| number(flags, 0)).unwrap_or(u32::from(header[2]));
        let wanted = number(body, 4)? == index
            && header[3] == libc::RT_SCOPE_UNIVERSE
            && flags & libc::IFA_F_PERMANENT != 0;
        // A label begins with the name of the device, which may change; it has no meaning of its own.
        let kept = attributes.into_iter().filter(|(kind, _)| *kind != libc::IFA_LABEL);
        let attributes = kept.map(|(kind, payload)| (kind, payload.to_vec())).collect();
        wanted.then_some(Self { header, attributes })
    }

    fn request(&self, index: u32) -> Request {
        let mut header = self.header;
        header[4..].copy_from_slice(&index.to_ne_bytes());
        let request =
            Request::change(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, &header);
        self.attributes
            .iter()
            .fold(request, |request, (kind, payload)| request.with(*kind, payload))
    }

    /// `192.0.2.1/24`
    fn text(&self) -> String {
        let is = |wanted: u16| move |(kind, _): &&(u16, Vec<u8>)| *kind == wanted;
        // Of a point-to-point link IFA_ADDRESS is the other end.
        let own = self.attributes.iter().find(is(libc::IFA_LOCAL));
        let own = own.or_else(|| self.attributes.iter().find(is(libc::IFA_ADDRESS)));
        let bytes = own.map(|(_, bytes)| bytes.as_slice()).unwrap_or_default();
        let address = match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
            (Ok(v4), _) => std::net::IpAddr::from(v4).to_string(),
            (_, Ok(v6)) => std::net::IpAddr::from(v6).to_string(),
            _ => format!("an address of family {}", self.header[0]),
        };
        format!("{address}/{}", self.header[1])
    }
}

/// What is asked of a namespace.
impl Socket {
    fn link(&self, name: &str) -> Result<Link, Failure> {
        const CALL: &str = "RTM_GETLINK";
        let request = Request::one(libc::RTM_GETLINK, &[0; LINK_HEADER]);
        let answers = self.ask(&request.with(libc::IFLA_IFNAME, &terminated(name)), CALL)?;
        let link = answers.first().and_then(|body| Link::read(body));
        link.ok_or(Failure { call: CALL, errno: Errno::EBADMSG })
    }

    fn links(&self) -> Result<Vec<Link>, Failure> {
        let request = Request::list(libc::RTM_GETLINK, &[0; LINK_HEADER]);
        let answers = self.ask(&request, "RTM_GETLINK")?;
        Ok(answers.iter().filter_map(|body| Link::read(body)).collect())
    }

    fn addresses(&self, index: u32) -> Result<Vec<Address>, Failure> {
        let request = Request::list(libc::RTM_GETADDR, &[0; ADDRESS_HEADER]);
        let answers = self.ask(&request, "RTM_GETADDR")?;
        Ok(answers.iter().filter_map(|body| Address::read(body, index)).collect())
    }

    /// Moves a device into the network namespace of a process, and renames it there. `number` is the one
    /// that it gets there; 0 leaves that to the kernel.
    fn give(&self, index: u32, pid: i32, name: &str, number: u32) -> Result<(), Failure> {
        let mut request = Request::change(libc::RTM_SETLINK, 0, &Link::header(index, 0))
            .with(libc::IFLA_NET_NS_PID, &pid.to_ne_bytes())
            .with(libc::IFLA_IFNAME, &terminated(name));
        if number != 0 {
            request = request.with(libc::IFLA_NEW_IFINDEX, &number.to_ne_bytes());
        }
        self.ask(&request, "RTM_SETLINK").map(drop)
    }

    fn set_up(&self, index: u32) -> Result<(), Failure> {
        let header = Link::header(index, libc::IFF_UP as u32);
        self.ask(&Request::change(libc::RTM_SETLINK, 0, &header), "RTM_SETLINK").map(drop)
    }

    fn add(&self, address: &Address, index: u32) -> Result<(), Failure> {
        self.ask(&address.request(index), "RTM_NEWADDR").map(drop)
    }
}

fn terminated(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

/// A device that was moved, as it was.
#[derive(Debug)]
struct Taken {
    link: Link,
    addresses: Vec<Address>,
    /// Its number in the container's namespace.
    index: u32,
}

/// Devices that are in the container's namespace, and come back with the end of this value.
#[derive(Debug)]
pub(crate) struct Moved {
    here: Socket,
    there: Socket,
    taken: Vec<Taken>,
}

/// Looks for a device, as [`move_all`] does first.
///
/// # Errors
/// The field, when the device is not there.
pub(crate) fn find(device: &Device) -> Result<()> {
    let here = Socket::open().context("move", "linux.netDevices")?;
    here.link(&device.name).context("find", &device.field).map(drop)
}

/// Moves the devices into the network namespace of the process `pid`, in which the socket `there` was
/// opened. On failure all are back.
///
/// # Errors
/// The field of the device that is not there, has no free name inside, or cannot be moved.
pub(crate) fn move_all(devices: &[Device], there: OwnedFd, pid: i32) -> Result<Moved> {
    let here = Socket::open().context("move", "linux.netDevices")?;
    let mut moved = Moved { here, there: Socket::from_fd(there), taken: Vec::new() };
    devices.iter().try_for_each(|device| moved.take(device, pid))?;
    Ok(moved)
}

impl Moved {
    /// Leaves the devices where they are.
    pub(crate) fn keep(mut self) {
        self.taken.clear();
    }

    fn take(&mut self, device: &Device, pid: i32) -> Result<()> {
        let link = self.here.link(&device.name).context("find", &device.field)?;
        let addresses = self.here.addresses(link.index);
        let addresses = addresses.context("read the addresses of", &device.field)?;
        let others = self.there.links().context("look at the namespace for", &device.field)?;
        if !device.is_template() && others.iter().any(|other| other.name == device.target) {
            let name = &device.target;
            return Err(device.error(format!("the container has an interface {name:?} already")));
        }
        let index = free_index(link.index, &others);
        let given = self.here.give(link.index, pid, &device.target, index);
        let inside = self.there.links().context("look at the namespace for", &device.field)?;
        // The move may be done although the rename was not.
        if given.is_ok() || inside.iter().any(|l| l.index == index && l.name == link.name) {
            self.taken.push(Taken { link, addresses: addresses.clone(), index });
        }
        given.context("move", format!("{} to {:?}", device.field, device.target))?;
        for address in &addresses {
            let added = self.there.add(address, index);
            added
                .context("keep the address of", format!("{} ({})", device.field, address.text()))?;
        }
        self.there.set_up(index).context("set up", &device.field)
    }

    /// Gives a device back, with the addresses that it had.
    fn restore(&self, taken: &Taken) -> Result<(), Failure> {
        let Taken { link, addresses, index } = taken;
        let own = std::process::id() as i32;
        self.there.give(*index, own, &link.name, 0)?;
        let back = self.here.link(&link.name)?;
        for address in addresses {
            // One that is refused must not cost the others.
            let _ = self.here.add(address, back.index);
        }
        if link.up { self.here.set_up(back.index) } else { Ok(()) }
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        for taken in self.taken.iter().rev() {
            // The error that is on its way out matters more.
            let _ = self.restore(taken);
        }
    }
}

/// A number that no device has: the device's own, if it can keep that.
fn free_index(own: u32, others: &[Link]) -> u32 {
    match others.iter().any(|other| other.index == own) {
        false => own,
        true => others.iter().map(|other| other.index).max().unwrap_or(own) + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_in_order_and_keep_their_name_by_default() {
        let linux: Linux = serde_json::from_str(
            r#"{"netDevices":{"b0":{"name":"eth%d"},"a1":{},"a0":{"name":""}}}"#,
        )
        .unwrap();
        let planned = plan(&linux);
        let names: Vec<_> = planned.iter().map(|d| (&*d.name, &*d.target)).collect();
        assert_eq!(names, [("a0", "a0"), ("a1", "a1"), ("b0", "eth%d")]);
        assert_eq!(planned[2].field, "linux.netDevices[\"b0\"]");
        assert!(planned[2].is_template() && !planned[0].is_template());
    }

    /// An address of device 7.
    fn message(scope: u8, flags: u32, label: bool) -> Vec<u8> {
        let header = [2, 24, flags as u8, scope, 7, 0, 0, 0];
        let mut request = Request::change(libc::RTM_NEWADDR, 0, &header)
            .with(libc::IFA_LOCAL, &[192, 0, 2, 1])
            .with(libc::IFA_ADDRESS, &[192, 0, 2, 9])
            .with(libc::IFA_FLAGS, &flags.to_ne_bytes());
        if label {
            request = request.with(libc::IFA_LABEL, b"eth0:1\0");
        }
        request.body().to_vec()
    }

    #[test]
    fn only_permanent_addresses_of_global_scope_are_kept() {
        let kept = |scope, flags, index| Address::read(&message(scope, flags, true), index);
        let permanent = libc::IFA_F_PERMANENT;
        assert!(kept(0, permanent, 7).is_some());
        assert_eq!(kept(0, permanent, 8), None, "another device");
        assert_eq!(kept(0, 0, 7), None, "from a lease");
        assert_eq!(kept(253, permanent, 7), None, "of the link");
        assert_eq!(kept(254, permanent, 7), None, "of the host");
    }

    #[test]
    fn an_address_is_written_as_it_was_read_without_its_label() {
        let address = Address::read(&message(0, 0x280, true), 7).unwrap();
        assert_eq!(address.text(), "192.0.2.1/24");
        let mut wanted = message(0, 0x280, false);
        wanted[4] = 5;
        assert_eq!(address.request(5).body(), wanted);
    }

    #[test]
    fn a_number_is_kept_or_the_next_free_one() {
        let link = |index| Link { index, name: String::new(), up: false };
        assert_eq!(free_index(4, &[link(1), link(3)]), 4);
        assert_eq!(free_index(3, &[link(1), link(3), link(9)]), 10);
        assert_eq!(free_index(3, &[]), 3);
    }
}
