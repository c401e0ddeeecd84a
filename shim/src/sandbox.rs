//! The sandbox service: a pod that containerd knows as a whole (`sandboxer = "shim"`).
//!
//! The sandbox is a container of ours like the others: its bundle's configuration says which namespaces
//! it makes and which program holds them, and the pod's containers join them by its pid. So its life is
//! that of a task, under other names, and a shim that is asked for tasks alone never gets here. A sandbox
//! without a configuration is refused: its containers would silently be in the host's namespaces.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use containerd_shim_protos::sandbox_api::{
    CreateSandboxRequest, CreateSandboxResponse, PingRequest, PingResponse, PlatformRequest,
    PlatformResponse, SandboxMetricsRequest, SandboxMetricsResponse, SandboxStatusRequest,
    SandboxStatusResponse, ShutdownSandboxRequest, ShutdownSandboxResponse, StartSandboxRequest,
    StartSandboxResponse, StopSandboxRequest, StopSandboxResponse, WaitSandboxRequest,
    WaitSandboxResponse,
};
use containerd_shim_protos::sandbox_sync::{Sandbox, create_sandbox};
use containerd_shim_protos::ttrpc::{self, Code, MethodHandler, TtrpcContext};
use nix::libc::{SIGKILL, SIGTERM};

use crate::announce::{number, timestamp};
use crate::code::status;
use crate::process::Phase;
use crate::service::Service;

/// The states that containerd's CRI plugin knows.
const READY: &str = "SANDBOX_READY";
const NOT_READY: &str = "SANDBOX_NOTREADY";
/// How long a sandbox may take to end by itself where the caller says nothing.
const GRACE: Duration = Duration::from_secs(10);
/// How long the kernel may take to end what was killed.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// The service's methods by path.
pub fn methods(service: Arc<Service>) -> HashMap<String, Box<dyn MethodHandler + Send + Sync>> {
    create_sandbox(service)
}

impl Sandbox for Service {
    fn create_sandbox(
        &self,
        _: &TtrpcContext,
        request: CreateSandboxRequest,
    ) -> ttrpc::Result<CreateSandboxResponse> {
        let new = self.new_sandbox(request)?;
        if !new.bundle.join("config.json").exists() {
            let text = format!(
                "create sandbox {:?}: its bundle has no config.json, and this shim makes none: give \
                 the sandbox a specification, or use containerd's podsandbox controller",
                new.id
            );
            return Err(status(Code::FAILED_PRECONDITION, text));
        }
        self.pod().create(new)?;
        Ok(CreateSandboxResponse::new())
    }

    fn start_sandbox(
        &self,
        _: &TtrpcContext,
        request: StartSandboxRequest,
    ) -> ttrpc::Result<StartSandboxResponse> {
        let pid = self.pod().start(&request.sandbox_id, "")?;
        let created = self.pod().container(&request.sandbox_id)?.created;
        Ok(StartSandboxResponse {
            pid: number(pid),
            created_at: Some(timestamp(created)).into(),
            ..StartSandboxResponse::default()
        })
    }

    fn platform(&self, _: &TtrpcContext, _: PlatformRequest) -> ttrpc::Result<PlatformResponse> {
        let mut response = PlatformResponse::new();
        let platform = response.platform.mut_or_insert_default();
        platform.os = "linux".to_owned();
        // Go's names, which image manifests use.
        platform.architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
        .to_owned();
        Ok(response)
    }

    fn stop_sandbox(
        &self,
        _: &TtrpcContext,
        request: StopSandboxRequest,
    ) -> ttrpc::Result<StopSandboxResponse> {
        let init = self.pod().process(&request.sandbox_id, "")?;
        let grace = match request.timeout_secs {
            0 => GRACE,
            seconds => Duration::from_secs(seconds.into()),
        };
        for (signal, patience) in [(SIGTERM, grace), (SIGKILL, KILL_DEADLINE)] {
            match self.pod().kill(&request.sandbox_id, "", signal, false) {
                // It has ended already.
                Err(ttrpc::Error::RpcStatus(gone)) if gone.code() == Code::NOT_FOUND => {}
                sent => sent?,
            }
            if init.ended().recv_timeout(patience).is_err_and(|end| end.is_disconnected()) {
                return Ok(StopSandboxResponse::new());
            }
        }
        let text = format!("sandbox {:?} did not end within 10 s of SIGKILL", request.sandbox_id);
        Err(status(Code::DEADLINE_EXCEEDED, text))
    }

    fn wait_sandbox(
        &self,
        context: &TtrpcContext,
        request: WaitSandboxRequest,
    ) -> ttrpc::Result<WaitSandboxResponse> {
        let exit = self.wait_for(context, &request.sandbox_id, "")?;
        Ok(WaitSandboxResponse {
            exit_status: exit.map_or(0, |exit| exit.status),
            exited_at: exit.map(|exit| timestamp(exit.at)).into(),
            ..WaitSandboxResponse::default()
        })
    }

    fn sandbox_status(
        &self,
        _: &TtrpcContext,
        request: SandboxStatusRequest,
    ) -> ttrpc::Result<SandboxStatusResponse> {
        let container = self.pod().container(&request.sandbox_id)?;
        let state = container.init.state();
        let ready = matches!(state.phase, Phase::Starting | Phase::Running);
        Ok(SandboxStatusResponse {
            sandbox_id: request.sandbox_id,
            pid: number(state.pid),
            state: if ready { READY } else { NOT_READY }.to_owned(),
            created_at: Some(timestamp(container.created)).into(),
            exited_at: state.exit.map(|exit| timestamp(exit.at)).into(),
            ..SandboxStatusResponse::default()
        })
    }

    fn ping_sandbox(&self, _: &TtrpcContext, request: PingRequest) -> ttrpc::Result<PingResponse> {
        self.pod().container(&request.sandbox_id)?;
        Ok(PingResponse::new())
    }

    fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        request: ShutdownSandboxRequest,
    ) -> ttrpc::Result<ShutdownSandboxResponse> {
        match self.pod().delete(&request.sandbox_id, "") {
            // It was never made, or is deleted: all that is left is the shim.
            Err(ttrpc::Error::RpcStatus(gone)) if gone.code() == Code::NOT_FOUND => {}
            deleted => drop(deleted?),
        }
        self.ending().when_empty();
        Ok(ShutdownSandboxResponse::new())
    }

    fn sandbox_metrics(
        &self,
        _: &TtrpcContext,
        request: SandboxMetricsRequest,
    ) -> ttrpc::Result<SandboxMetricsResponse> {
        let figures = self.figures(&request.sandbox_id)?;
        let mut response = SandboxMetricsResponse::new();
        let metrics = response.metrics.mut_or_insert_default();
        metrics.id = request.sandbox_id;
        metrics.timestamp = Some(timestamp(std::time::SystemTime::now())).into();
        metrics.data = Some(figures).into();
        Ok(response)
    }
}
