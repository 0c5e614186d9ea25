//! An OCI image of the backend, without a container engine.

use std::process::Command;

use crate::shell::{Failure, Outcome, cargo, has, is_root, known_flags, output, step, target_dir};

const HELP: &str = "\
usage: cargo xtask container [--tag NAME]

Makes an OCI image of pitstop-backend with buildah: from scratch, the program and the shared libraries it needs, its own user,
one volume for database and files. --tag sets its name (default localhost/pitstop-backend:latest).
Run it with any engine, once to fill the volume and then to serve:

  mkdir backend; OPTIONS=\"--user $(id -u):$(id -g) -v $PWD/backend:/data\"
  ENGINE run --rm $OPTIONS -v $PWD/keyring.pem:/keyring.pem:ro NAME init --host HOST --keyring /keyring.pem \\
    --public 0.0.0.0:8443 --device 0.0.0.0:8444 --admin 0.0.0.0:8080
  ENGINE run $OPTIONS -p 8443:8443 -p 8444:8444 -p 127.0.0.1:8080:8080 NAME serve --no-mqtt

HOST is the name or address by which vehicles reach it, keyring.pem tells who may sign bundles. The user must be able to write to the
folder (podman without root: --userns=keep-id). Without --no-mqtt it wants a broker at HOST, which is a program of its own";

pub fn run(args: &[String]) -> Outcome {
    if args.iter().any(|a| a == "--help" || a == "-h") {
        println!("{HELP}");
        return Ok(());
    }
    known_flags("container", args, &[], &["--tag"])?;
    let at = args.iter().position(|a| a == "--tag");
    let tag = at.and_then(|at| args.get(at + 1)).map_or("localhost/pitstop-backend:latest", String::as_str);
    ensure_buildah()?;
    step("building the backend", cargo().args(["build", "--workspace", "--quiet"]))?;
    let program = target_dir().join("debug/pitstop-backend");
    let buildah = |args: &[&str]| output(Command::new("buildah").args(["--storage-driver", "vfs"]).args(args));
    let container = buildah(&["from", "scratch"])?.trim().to_owned();
    eprintln!("==> filling the image");
    let mut files = vec![("/usr/bin/pitstop-backend".to_owned(), program.display().to_string())];
    for library in libraries(&program.display().to_string())? {
        files.push((library.clone(), library));
    }
    for (inside, outside) in files {
        buildah(&["copy", "--quiet", &container, &outside, &inside])?;
    }
    buildah(&[
        "config",
        "--user",
        "65532:65532",
        "--volume",
        "/data",
        "--port",
        "8443",
        "--port",
        "8444",
        "--port",
        "8080",
        "--env",
        "PITSTOP_BACKEND_DIR=/data",
        "--entrypoint",
        "[\"/usr/bin/pitstop-backend\"]",
        "--cmd",
        "serve --dir /data",
        &container,
    ])?;
    let image = buildah(&["commit", "--quiet", &container, tag])?;
    buildah(&["rm", &container])?;
    eprintln!("    image {tag} {}", image.trim());
    Ok(())
}

fn ensure_buildah() -> Outcome {
    if has("buildah") {
        return Ok(());
    }
    if !is_root() {
        return Err(Failure::new("buildah is missing; run as root: apt-get install -y buildah"));
    }
    step("buildah", Command::new("apt-get").args(["install", "-y", "-qq", "--no-install-recommends", "buildah"]))
}

/// The shared libraries a program is loaded with, the loader among them.
fn libraries(program: &str) -> Result<Vec<String>, Failure> {
    let listed = output(Command::new("ldd").arg(program))?;
    Ok(listed.split_whitespace().filter(|w| w.starts_with('/')).map(str::to_owned).collect())
}
