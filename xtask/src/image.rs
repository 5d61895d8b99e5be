//! `cargo xtask image`: what a container image of podmeter is made of, and the image itself where something here can build one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;
use crate::{build, command};

const DOCKERFILE: &str = "deploy/image/Dockerfile.binary";

/// Where systems keep the certificates of the authorities they trust; the first that is there is taken.
const CERTIFICATES: &[&str] = &["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
/// Where they are in the image, which is one of the places where podmeter looks.
const CERTIFICATES_IN_IMAGE: &str = "etc/ssl/certs/ca-certificates.crt";

/// Programs that build images, in the order in which they are tried.
const BUILDERS: &[&str] = &["docker", "podman", "buildah"];

/// Builds podmeter statically, puts all that the image holds into `target/image`, and builds the image.
pub(crate) fn run(workspace: &Workspace, tag: &str) -> Result<()> {
    let context = context(workspace, &build::podmeter(workspace, true)?)?;
    println!("{} has what the image is built from", context.display());
    let mut tried = Vec::new();
    for builder in BUILDERS.iter().filter(|builder| bpf_toolchain::program(builder).is_some()) {
        let mut build = Command::new(builder);
        build.args(["build", "--tag", tag]).arg(&context);
        match command::run(&mut build) {
            Ok(()) => {
                println!("{tag} is built by {builder}");
                return Ok(());
            }
            Err(error) => tried.push(format!("{error:#}")),
        }
    }
    if tried.is_empty() {
        bail!(
            "no image: there is none of {} here. Where one is: docker build -t {tag} {}",
            BUILDERS.join(", "),
            context.display()
        );
    }
    bail!("no image: {}", tried.join("; "))
}

/// Makes the directory that is sent to a builder. Modes are set here, so that no file of the image can be written.
fn context(workspace: &Workspace, podmeter: &Path) -> Result<PathBuf> {
    let context = workspace.target.join("image");
    if context.exists() {
        fs::remove_dir_all(&context).with_context(|| format!("could not remove {}", context.display()))?;
    }
    let certificates = CERTIFICATES.iter().map(Path::new).find(|file| file.exists());
    let certificates =
        certificates.with_context(|| format!("no certificates of authorities: {} are not there", CERTIFICATES.join(", ")))?;
    let root = context.join("image");
    put(podmeter, &root.join("podmeter"), 0o555)?;
    put(certificates, &root.join(CERTIFICATES_IN_IMAGE), 0o444)?;
    put(&workspace.root.join(DOCKERFILE), &context.join("Dockerfile"), 0o644)?;
    Ok(context)
}

fn put(from: &Path, to: &Path, mode: u32) -> Result<()> {
    let directory = to.parent().context("a file without a directory")?;
    fs::create_dir_all(directory).with_context(|| format!("could not make {}", directory.display()))?;
    fs::copy(from, to).with_context(|| format!("could not copy {} to {}", from.display(), to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode)).with_context(|| format!("could not change {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_context_holds_the_agent_the_certificates_and_nothing_that_can_be_written() {
        let directory = std::env::temp_dir().join(format!("xtask-container-image-{}", std::process::id()));
        let workspace = Workspace { target: directory.clone(), root: Workspace::find().unwrap().root };
        let context = context(&workspace, Path::new("/proc/self/exe")).unwrap();
        let mode = |file: &str| fs::metadata(context.join("image").join(file)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("podmeter"), mode(CERTIFICATES_IN_IMAGE)), (0o555, 0o444));
        let dockerfile = fs::read_to_string(context.join("Dockerfile")).unwrap();
        assert!(dockerfile.contains("FROM scratch") && dockerfile.contains("COPY image/ /"));
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn both_dockerfiles_make_the_same_image() {
        let root = Workspace::find().unwrap().root;
        let image = |file: &str| -> String {
            let text = fs::read_to_string(root.join("deploy/image").join(file)).unwrap();
            let image = text.split_once("FROM scratch").unwrap().1;
            image.lines().filter(|line| !line.starts_with("COPY")).collect()
        };
        assert_eq!(image("Dockerfile"), image("Dockerfile.binary"));
    }
}
