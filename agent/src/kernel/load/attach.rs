//! Programs onto their hooks and off again: links, those that an earlier agent pinned, and what is attached in the way.

use std::{fs::File, path::PathBuf};

use aya::programs::{
    CgroupAttachMode, CgroupSkbAttachType, Program, ProgramError,
    links::{FdLink, LinkError, PinnedLink},
    loaded_programs,
};

use super::{Hook, Kernel, LoadError, Object, Refused, grow::lock, is_place_of};
use crate::{
    causes::chain,
    kernel::{
        facts,
        pin::{self, PinError},
        sys,
    },
};

impl Kernel {
    /// Attaches an object's programs, or takes over the links that an earlier agent pinned. From here on it counts, unless it has been
    /// counting since then: see [`Object::since_ns`].
    ///
    /// # Errors
    /// When the kernel refuses a program that the object cannot do without. Then none of its programs stays attached: what was attached
    /// last is detached first.
    pub fn attach(&mut self, object: &mut Object) -> Result<(), LoadError> {
        let attached = self.take_over(object).and_then(|()| self.attach_all(object));
        if attached.is_err() {
            object.detach(|_| true)?;
            self.forget(object.name)?;
        }
        attached
    }

    /// An object is of no use after all, since what it is for could not start: nothing of it stays in bpffs, and nobody can call it or be
    /// called by it. Its programs are detached with its [`Object`].
    ///
    /// # Errors
    /// When bpffs refuses.
    pub fn forget(&mut self, object: &str) -> Result<(), LoadError> {
        let (its, others) = std::mem::take(&mut self.in_use).into_iter().partition(|place| is_place_of(place, object));
        self.in_use = others;
        self.loaded.retain(|loaded| loaded.object != object);
        its.iter().try_for_each(|place: &PathBuf| pin::remove(place)).map_err(LoadError::from)
    }

    fn attach_all(&mut self, object: &mut Object) -> Result<(), LoadError> {
        for (program, hook) in object.attach.clone() {
            if !hook.has_link() || object.does_without(program) {
                continue;
            }
            match self.attached(object, program, hook) {
                Ok(link) => lock(&object.links).push((program, link)),
                Err(error) => object.refuse(program, error)?,
            }
        }
        if !object.adopted() {
            object.since_ns = facts::boottime_ns();
        }
        if !object.runs() && self.pins.keeps() {
            pin::keep_since(&object.version.place, object.since_ns)?;
        }
        for loaded in self.loaded.iter_mut().filter(|loaded| loaded.object == object.name) {
            loaded.since_ns = object.since_ns;
        }
        Ok(())
    }

    /// A program's link: the pinned one of an earlier agent, or a new one.
    fn attached(&self, object: &mut Object, program: &'static str, hook: Hook) -> Result<FdLink, LoadError> {
        let unlinked = |action, source: Box<dyn std::error::Error + Send + Sync>| LoadError::Link {
            action,
            program: program.to_owned(),
            source,
        };
        let place = object.version.place.join(program);
        if object.runs_already(program) {
            let link = PinnedLink::from_pin(&place).map_err(|e: LinkError| unlinked("open", e.into()))?;
            return Ok(link.into());
        }
        let link = self.link(object, program, hook)?;
        if self.pins.keeps() { Ok(link.pin(&place).map_err(|e| unlinked("pin", e.into()))?.into()) } else { Ok(link) }
    }

    fn link(&self, object: &mut Object, program: &'static str, hook: Hook) -> Result<FdLink, LoadError> {
        let failed = |source: ProgramError| match self.in_the_way(hook, &source) {
            Some(others) => LoadError::Exclusive { program: program.to_owned(), others, path: self.root.clone() },
            None => LoadError::Program { action: "attach", program: program.to_owned(), source: Box::new(source) },
        };
        let root = || File::open(&self.root).map_err(|source| LoadError::Root { path: self.root.clone(), source });
        // A link is one of many on its cgroup, whatever others attach: only the old kind of attachment needs a mode.
        let mode = CgroupAttachMode::Single;
        let missing = LoadError::Missing { object: object.name, what: "program", name: program.to_owned() };
        match (object.ebpf.program_mut(program).ok_or(missing)?, hook) {
            (Program::BtfTracePoint(loaded), Hook::Tracepoint(_)) => {
                let id = loaded.attach().map_err(failed)?;
                Ok(loaded.take_link(id).map_err(failed)?.into())
            }
            (Program::FEntry(loaded), Hook::Entry(_)) => {
                let id = loaded.attach().map_err(failed)?;
                Ok(loaded.take_link(id).map_err(failed)?.into())
            }
            (Program::FExit(loaded), Hook::Exit(_)) => {
                let id = loaded.attach().map_err(failed)?;
                Ok(loaded.take_link(id).map_err(failed)?.into())
            }
            (Program::CgroupSkb(loaded), Hook::Ingress | Hook::Egress) => {
                let way = if hook == Hook::Ingress { CgroupSkbAttachType::Ingress } else { CgroupSkbAttachType::Egress };
                let id = loaded.attach(root()?, way, mode).map_err(failed)?;
                let link = loaded.take_link(id).map_err(failed)?;
                link.try_into().map_err(|e: LinkError| LoadError::Link {
                    action: "make",
                    program: program.to_owned(),
                    source: e.into(),
                })
            }
            (Program::SockOps(loaded), Hook::SockOps) => {
                let id = loaded.attach(root()?, mode).map_err(failed)?;
                let link = loaded.take_link(id).map_err(failed)?;
                link.try_into().map_err(|e: LinkError| LoadError::Link {
                    action: "make",
                    program: program.to_owned(),
                    source: e.into(),
                })
            }
            _ => Err(failed(ProgramError::UnexpectedProgramType)),
        }
    }

    /// Which programs are in the way of one at the root of the cgroup tree, as the beginning of a sentence. `None` where that is not why it
    /// was refused.
    ///
    /// A program is attached exclusively with flags 0, or so that one below may replace it (`BPF_F_ALLOW_OVERRIDE`); the kernel then answers
    /// every other attachment with EPERM (`__cgroup_bpf_attach`).
    fn in_the_way(&self, hook: Hook, refused: &ProgramError) -> Option<String> {
        const ALLOW_MULTI: u32 = 2;
        let ProgramError::SyscallError(error) = refused else { return None };
        if error.io_error.raw_os_error() != Some(nix::libc::EPERM) {
            return None;
        }
        let (flags, ids) = sys::attached_to(File::open(&self.root).ok()?, hook.attach_type()?).ok()?;
        if ids.is_empty() || flags & ALLOW_MULTI != 0 {
            return None;
        }
        let name = |id: &u32| {
            let info = loaded_programs().filter_map(Result::ok).find(|info| info.id() == *id);
            info.and_then(|info| info.name_as_str().map(|name| format!("{id} ({name})"))).unwrap_or_else(|| id.to_string())
        };
        Some(match &ids[..] {
            [id] => format!("program {} is attached", name(id)),
            ids => format!("programs {} are attached", ids.iter().map(name).collect::<Vec<_>>().join(", ")),
        })
    }
}

impl Object {
    /// Whether an earlier agent has left the program running: its link is pinned.
    pub(super) fn runs_already(&self, program: &str) -> bool {
        self.runs() && self.version.place.join(program).exists()
    }

    /// Leaves out the group of optional programs that this one is of.
    ///
    /// # Errors
    /// With `error`, when it is of none; when what an earlier agent has pinned of the group cannot be removed.
    pub(super) fn refuse(&mut self, program: &str, error: LoadError) -> Result<(), LoadError> {
        let Some(what) = self.optional.iter().find(|optional| optional.programs.contains(&program)).copied() else {
            return Err(error);
        };
        self.detach(|name| what.programs.contains(&name))?;
        for name in what.programs {
            pin::remove_file(&self.version.place.join(name))?;
        }
        // The verifier's log, on further lines, is for the log of the agent.
        let error = chain(&error);
        tracing::debug!(program, error, "the kernel refuses an optional program");
        let reason = error.lines().next().unwrap_or_default().to_owned();
        self.refused.push(Refused { what, reason });
        Ok(())
    }

    /// Detaches programs, the one that was attached last first, pinned links too.
    ///
    /// # Errors
    /// When what is pinned cannot be removed.
    fn detach(&mut self, wanted: impl Fn(&str) -> bool) -> Result<(), PinError> {
        let mut links = lock(&self.links);
        for i in (0..links.len()).rev().filter(|i| wanted(links[*i].0)).collect::<Vec<_>>() {
            let (program, link) = links.remove(i);
            pin::remove_file(&self.version.place.join(program))?;
            drop(link);
        }
        Ok(())
    }
}
