//! Host name and NIS domain name. uts_namespaces(7).

use crate::error::{Call, Context, Result};
use crate::sys;

/// Names for the container's UTS namespace; `validate` has made sure that there is one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub hostname: Option<String>,
    pub domainname: Option<String>,
}

impl Plan {
    /// Sets them. Called inside the namespace.
    pub(crate) fn apply(&self) -> Result<()> {
        if let Some(name) = &self.hostname {
            nix::unistd::sethostname(name)
                .call("sethostname")
                .context("set hostname", format!("{name:?}"))?;
        }
        if let Some(name) = &self.domainname {
            sys::process::setdomainname(name.as_bytes())
                .context("set domainname", format!("{name:?}"))?;
        }
        Ok(())
    }
}
