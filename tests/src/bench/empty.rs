//! Programs that do nothing, on all hooks at which the agent's programs run often.

use std::fs::File;

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    programs::{CgroupAttachMode, ProgramType, SockOps, sock_ops::SockOpsLinkId},
};

use super::{
    packets::Pair,
    programs::{Counted, OnTracepoint, Runs, load_empty},
};
use crate::cgroup::mount_point;

const SOCK_OPS: &str = "bench_empty_on_event";

/// Where a program is attached, as far as an empty one can be beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// sched_switch, and what has no empty program of its own.
    Switch,
    Sent,
    Received,
    /// What a TCP socket reports to a sock_ops program.
    Event,
    /// kfree_skb.
    Free,
}

/// How many there are.
pub(super) const HOOKS: usize = 5;

impl Hook {
    /// That of a program of the agent's.
    pub(super) fn of(program: &Counted) -> Self {
        match program.kind {
            Some(ProgramType::CgroupSkb) if program.name.contains("_on_ingr") => Self::Received,
            Some(ProgramType::CgroupSkb) => Self::Sent,
            Some(ProgramType::SockOps) => Self::Event,
            _ if program.name == "drops_on_free" => Self::Free,
            _ => Self::Switch,
        }
    }
}

/// One program for each [`Hook`], for the whole machine.
pub(super) struct Empties {
    switch: OnTracepoint,
    free: OnTracepoint,
    packets: Pair,
    events: Ebpf,
    link: Option<SockOpsLinkId>,
    root: File,
}

impl Empties {
    /// Loaded, not attached.
    pub(super) fn load() -> Result<Self> {
        let mut this = Self {
            switch: OnTracepoint::empty_on_switch()?,
            free: OnTracepoint::empty_on_free()?,
            packets: Pair::empty()?,
            events: load_empty()?,
            link: None,
            root: File::open(mount_point()?).context("could not open the root of cgroup2")?,
        };
        this.event()?.load().with_context(|| format!("could not load {SOCK_OPS}"))?;
        Ok(this)
    }

    fn event(&mut self) -> Result<&mut SockOps> {
        let program = self.events.program_mut(SOCK_OPS).with_context(|| format!("the bench object has no {SOCK_OPS}"))?;
        Ok(program.try_into()?)
    }

    /// Lets all of them run.
    pub(super) fn attach(&mut self) -> Result<()> {
        self.switch.attach()?;
        self.free.attach()?;
        self.packets.attach(&self.root)?;
        let root = self.root.try_clone().context("could not duplicate a descriptor")?;
        let link = self.event()?.attach(root, CgroupAttachMode::Single);
        self.link = Some(link.context("could not attach a sock_ops program")?);
        Ok(())
    }

    /// Ends that.
    pub(super) fn detach(&mut self) -> Result<()> {
        self.switch.detach()?;
        self.free.detach()?;
        self.packets.detach()?;
        match self.link.take() {
            Some(link) => self.event()?.detach(link).context("could not detach a sock_ops program"),
            None => Ok(()),
        }
    }

    /// In the order of [`Hook`].
    pub(super) fn runs(&mut self) -> Result<[Runs; HOOKS]> {
        let [sent, received] = self.packets.runs()?;
        let event = Runs::of(&self.event()?.info().context("could not ask for a program's run time")?);
        Ok([self.switch.runs()?, sent, received, event, self.free.runs()?])
    }
}
