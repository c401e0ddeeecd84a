//! The task service: containerd's calls, translated to those of [`crate::pod`].
//!
//! The same methods answer under both of the service's names: `containerd.task.v2.Task` for
//! containerd 1.x and `containerd.task.v3.Task` for 2.x, which differ in nothing else.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
    PauseRequest, PidsRequest, PidsResponse, ProcessInfo, ResizePtyRequest, ResumeRequest,
    ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest,
    StatsResponse, Status, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{EnumOrUnknown, Message, MessageField};
use containerd_shim_protos::sandbox_api::CreateSandboxRequest;
use containerd_shim_protos::shim::oci::ProcessDetails;
use containerd_shim_protos::ttrpc::{self, Code, MethodHandler, TtrpcContext};
use containerd_shim_protos::{Task, create_task};
use crossbeam_channel::select;

use crate::announce::{number, timestamp};
use crate::bootstrap::Launch;
use crate::code::{self, status};
use crate::container::NewContainer;
use crate::criu::{Saved, Wanted};
use crate::ending::Ending;
use crate::log::Log;
use crate::metrics;
use crate::options::Options;
use crate::pod::{Pod, TaskStatus, finished};
use crate::process::Exit;
use crate::rootfs::Mount;
use crate::sandbox;
use crate::stdio::Named;

/// The service's name up to containerd 1.x.
const OLDER: &str = "/containerd.task.v2.Task/";
/// The service's name since containerd 2.0.
const NEWER: &str = "/containerd.task.v3.Task/";

/// What the calls work on.
pub struct Service {
    pod: Arc<Pod>,
    launch: Launch,
    log: Log,
    ending: Arc<Ending>,
}

impl Service {
    /// A service for the containers of `pod`.
    pub fn new(pod: Arc<Pod>, launch: Launch, log: Log, ending: Arc<Ending>) -> Self {
        Self { pod, launch, log, ending }
    }

    /// Its methods by path, under both names.
    pub fn methods(self) -> HashMap<String, Box<dyn MethodHandler + Send + Sync>> {
        let service = Arc::new(self);
        let mut methods = create_task(Arc::clone(&service) as _);
        let older = create_task(Arc::clone(&service) as _).into_iter();
        methods.extend(older.map(|(path, method)| (path.replacen(NEWER, OLDER, 1), method)));
        methods.extend(sandbox::methods(service));
        methods
    }

    /// The containers.
    pub fn pod(&self) -> &Arc<Pod> {
        &self.pod
    }

    /// A sandbox is a container without streams.
    pub fn new_sandbox(&self, request: CreateSandboxRequest) -> ttrpc::Result<NewContainer> {
        let bundle = PathBuf::from(request.bundle_path);
        // Its options are those of the pod (CRI's PodSandboxConfig), not ours.
        let options = self.options(&bundle, None)?;
        let rootfs = request.rootfs.into_iter().map(Mount::from_message).collect();
        Ok(self.describe(request.sandbox_id, bundle, rootfs, Named::default(), &options))
    }

    fn new_container(&self, request: CreateTaskRequest) -> ttrpc::Result<NewContainer> {
        let bundle = PathBuf::from(request.bundle);
        let options = self.options(&bundle, request.options.as_ref())?;
        let saved = Saved::of(
            &request.checkpoint,
            &request.parent_checkpoint,
            &options.criu_image_path,
            &options.criu_work_path,
        );
        let saved = saved.map_err(|error| code::answer(&error))?;
        let streams = Named {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        let rootfs = request.rootfs.into_iter().map(Mount::from_message).collect();
        let new = self.describe(request.id, bundle, rootfs, streams, &options);
        Ok(NewContainer { saved, ..new })
    }

    /// The options of a request, or those of the shim, kept in the bundle.
    fn options(&self, bundle: &Path, options: Option<&Any>) -> ttrpc::Result<Options> {
        let options = match options {
            Some(any) => Options::decode(any).map_err(|error| code::answer(&error))?,
            None => self.launch.options.clone(),
        };
        options.store(bundle).map_err(|error| code::answer(&error))?;
        options.warnings().iter().for_each(|warning| self.log.warn(warning));
        Ok(options)
    }

    fn describe(
        &self,
        id: String,
        bundle: PathBuf,
        rootfs: Vec<Mount>,
        streams: Named,
        options: &Options,
    ) -> NewContainer {
        NewContainer {
            id,
            root: options.state_root(&self.launch.namespace),
            bundle,
            rootfs,
            streams,
            no_pivot: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
            systemd_cgroup: options.systemd_cgroup,
            saved: None,
        }
    }

    /// Waits for the end of a process, or of the client.
    pub fn wait_for(
        &self,
        context: &TtrpcContext,
        id: &str,
        exec: &str,
    ) -> ttrpc::Result<Option<Exit>> {
        let process = self.pod.process(id, exec)?;
        select! {
            recv(process.ended()) -> _ => {}
            // A client that has gone away must not keep a thread of ours.
            recv(context.cancel_rx) -> _ => {
                return Err(status(Code::CANCELLED, "the client has closed its connection"));
            }
        }
        let exit = process.state().exit;
        Ok(exit)
    }

    /// The figures of a container's cgroup.
    pub fn figures(&self, id: &str) -> ttrpc::Result<Any> {
        let container = self.pod.container(id)?;
        let stats = container.handle()?.stats().map_err(|error| code::answer(&error))?;
        Ok(metrics::metrics(&stats))
    }

    /// The end of the shim.
    pub fn ending(&self) -> &Ending {
        &self.ending
    }
}

impl Task for Service {
    fn create(
        &self,
        _: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> ttrpc::Result<CreateTaskResponse> {
        let pid = self.pod.create(self.new_container(request)?)?;
        Ok(CreateTaskResponse { pid: number(pid), ..CreateTaskResponse::default() })
    }

    fn start(&self, _: &TtrpcContext, request: StartRequest) -> ttrpc::Result<StartResponse> {
        let pid = self.pod.start(&request.id, &request.exec_id)?;
        Ok(StartResponse { pid: number(pid), ..StartResponse::default() })
    }

    fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> ttrpc::Result<DeleteResponse> {
        let (pid, exit) = self.pod.delete(&request.id, &request.exec_id)?;
        Ok(DeleteResponse {
            pid: number(pid),
            exit_status: exit.map_or(0, |exit| exit.status),
            exited_at: exit.map(|exit| timestamp(exit.at)).into(),
            ..DeleteResponse::default()
        })
    }

    fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> ttrpc::Result<Empty> {
        let spec = request.spec.into_option().unwrap_or_default();
        let json = text(spec.value, "the process of Exec")?;
        let streams = Named {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        self.pod.exec(&request.id, &request.exec_id, json, streams)?;
        Ok(Empty::new())
    }

    fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        let container = self.pod.container(&request.id)?;
        let process = self.pod.process(&request.id, &request.exec_id)?;
        let word = match self.pod.status(&container, &process)? {
            TaskStatus::Created => Status::CREATED,
            TaskStatus::Running => Status::RUNNING,
            TaskStatus::Stopped => Status::STOPPED,
            TaskStatus::Paused => Status::PAUSED,
        };
        let state = process.state();
        let exit = state.exit.filter(|_| word == Status::STOPPED);
        let streams = &process.streams;
        Ok(StateResponse {
            id: process.id().to_owned(),
            bundle: container.bundle.to_string_lossy().into_owned(),
            pid: number(state.pid),
            status: EnumOrUnknown::new(word),
            stdin: streams.stdin.clone(),
            stdout: streams.stdout.clone(),
            stderr: streams.stderr.clone(),
            terminal: streams.terminal,
            exit_status: exit.map_or(0, |exit| exit.status),
            exited_at: exit.map(|exit| timestamp(exit.at)).into(),
            exec_id: process.exec.clone(),
            ..StateResponse::default()
        })
    }

    fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> ttrpc::Result<PidsResponse> {
        let container = self.pod.container(&request.id)?;
        let pids = container.handle()?.processes().map_err(|error| code::answer(&error))?;
        let processes = pids.into_iter().map(|pid| {
            let exec = container.exec_of(pid);
            let details = exec.and_then(|exec_id| {
                let details = ProcessDetails { exec_id, ..ProcessDetails::default() };
                any(&details)
            });
            ProcessInfo { pid: number(pid), info: details.into(), ..ProcessInfo::default() }
        });
        Ok(PidsResponse { processes: processes.collect(), ..PidsResponse::default() })
    }

    fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> ttrpc::Result<Empty> {
        let container = self.pod.container(&request.id)?;
        container.handle()?.pause().map_err(|error| code::answer(&error))?;
        self.pod.events().paused(&request.id);
        Ok(Empty::new())
    }

    fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> ttrpc::Result<Empty> {
        let container = self.pod.container(&request.id)?;
        container.handle()?.resume().map_err(|error| code::answer(&error))?;
        self.pod.events().resumed(&request.id);
        Ok(Empty::new())
    }

    fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        let signal = i32::try_from(request.signal).unwrap_or(-1);
        self.pod.kill(&request.id, &request.exec_id, signal, request.all)?;
        Ok(Empty::new())
    }

    fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> ttrpc::Result<Empty> {
        let process = self.pod.process(&request.id, &request.exec_id)?;
        let state = process.state();
        let cells = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
        match &state.terminal {
            Some(terminal) => terminal
                .resize(cells(request.width), cells(request.height))
                .map_err(|error| code::answer(&error))?,
            None if process.streams.terminal && state.exit.is_some() => return Err(finished()),
            None if process.streams.terminal => {
                let text = format!("resize terminal of process {:?}: not started", process.id());
                return Err(status(Code::FAILED_PRECONDITION, text));
            }
            // As runc's shim: nothing to resize.
            None => {}
        }
        Ok(Empty::new())
    }

    fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> ttrpc::Result<Empty> {
        let process = self.pod.process(&request.id, &request.exec_id)?;
        if request.stdin {
            process.state().close_input();
        }
        Ok(Empty::new())
    }

    fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        let container = self.pod.container(&request.id)?;
        let handle = container.handle()?;
        let json = request.resources.into_option().unwrap_or_default().value;
        let mut warnings = Vec::new();
        let updated = runtime::load_resources(&json, &mut warnings)
            .and_then(|resources| handle.update(&resources, &mut warnings));
        for warning in &warnings {
            self.log.warn(&format!("container {:?}: {warning}", request.id));
        }
        updated.map_err(|error| code::answer(&error))?;
        Ok(Empty::new())
    }

    fn wait(&self, context: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let exit = self.wait_for(context, &request.id, &request.exec_id)?;
        Ok(WaitResponse {
            exit_status: exit.map_or(0, |exit| exit.status),
            exited_at: exit.map(|exit| timestamp(exit.at)).into(),
            ..WaitResponse::default()
        })
    }

    fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let stats = MessageField::some(self.figures(&request.id)?);
        Ok(StatsResponse { stats, ..StatsResponse::default() })
    }

    fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> ttrpc::Result<ConnectResponse> {
        let task_pid = match self.pod.process(&request.id, "") {
            Ok(init) => init.state().pid,
            // A shim without its container is asked too, when containerd comes back.
            Err(_) => 0,
        };
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: number(task_pid),
            ..ConnectResponse::default()
        })
    }

    fn checkpoint(&self, _: &TtrpcContext, request: CheckpointTaskRequest) -> ttrpc::Result<Empty> {
        let wanted = Wanted::decode(request.options.as_ref());
        let wanted = wanted.map_err(|error| code::answer(&error))?;
        self.pod.checkpoint(&request.id, &request.path, wanted)?;
        Ok(Empty::new())
    }

    fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> ttrpc::Result<Empty> {
        self.ending.when_empty();
        Ok(Empty::new())
    }
}

/// A message with its type, as Go's typeurl writes it.
fn any(message: &ProcessDetails) -> Option<Any> {
    let value = message.write_to_bytes().ok()?;
    Some(Any { type_url: "containerd.runc.v1.ProcessDetails".into(), value, ..Any::default() })
}

fn text(bytes: Vec<u8>, what: &str) -> ttrpc::Result<String> {
    String::from_utf8(bytes)
        .map_err(|_| status(Code::INVALID_ARGUMENT, format!("{what} is not UTF-8")))
}
