//! The texts of a package: the systemd unit, the Containerfile, the page that says how to install them. Each says in
//! comments why it is as it is, for whoever changes it.

use super::{Linking, MODEL, PROGRAM};

/// glibc of the images below, oldest first, and the image.
const IMAGES: &[(u32, &str)] =
    &[(36, "gcr.io/distroless/cc-debian12"), (41, "gcr.io/distroless/cc-debian13")];

/// Every text with the name of its file.
pub(super) fn of(name: &str, linking: &Linking) -> Vec<(String, String)> {
    let slug = slug(name);
    let unit = unit_name(&slug);
    vec![
        (unit.clone(), unit_file(&slug)),
        ("Containerfile".into(), containerfile(name, linking)),
        ("README.md".into(), readme(name, &slug, &unit, linking)),
    ]
}

fn unit_name(slug: &str) -> String {
    format!("distill-{slug}.service")
}

/// A name that means nothing to systemd, a path or an image's tag: `@` would make a unit a template's instance.
fn slug(name: &str) -> String {
    let plain =
        |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c.to_ascii_lowercase() } else { '-' };
    name.chars().map(plain).collect()
}

fn unit_file(slug: &str) -> String {
    format!(
        "# {slug} over HTTP on the loopback. Check it with: systemd-analyze verify {unit}
[Unit]
Description={slug}: labels for pictures over HTTP
Documentation=file:/opt/{slug}/README.md
After=network.target
StartLimitIntervalSec=60
StartLimitBurst=5

[Service]
Type=exec
ExecStart=/opt/{slug}/{PROGRAM} /opt/{slug}/{MODEL} --addr 127.0.0.1:8080
Restart=on-failure
RestartSec=1
# SIGTERM drains: requests under way are answered, new ones refused. Whoever hangs longer is killed.
KillSignal=SIGTERM
TimeoutStopSec=30
# A socket per connection, and a few files.
LimitNOFILE=65536
# The network, its queue and the pictures under way take far less; a leak ends here and not with the machine.
MemoryMax=1G
TasksMax=256

# A user of its own that exists only while it runs; it reads its folder and writes nowhere.
DynamicUser=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
UMask=0077
# Never more rights than at the start, and none of root's.
NoNewPrivileges=yes
CapabilityBoundingSet=
RestrictSUIDSGID=yes
# It listens and answers: no other kind of socket, no kernel settings, no other process's business.
RestrictAddressFamilies=AF_INET AF_INET6
ProtectProc=invisible
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictNamespaces=yes
RestrictRealtime=yes
LockPersonality=yes
# The native engine makes no code at run time. ONNX Runtime (--engine ort) may need this line gone.
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
",
        unit = unit_name(slug),
    )
}

/// The image to stand on, and why.
fn base(linking: &Linking) -> (String, String) {
    match linking {
        Linking::Static => {
            ("scratch".into(), "The program holds all it needs: nothing else is in the image.".into())
        }
        Linking::Glibc { major: 2, minor } => {
            let newest = &IMAGES[IMAGES.len() - 1];
            let (has, image) = IMAGES.iter().find(|(has, _)| has >= minor).unwrap_or(newest);
            let mut why = format!(
                "The program needs glibc 2.{minor} or newer and libgcc, which this image has (2.{has}), and no shell."
            );
            if has < minor {
                why = format!(
                    "The program needs glibc 2.{minor} or newer, which no image known here has (the newest 2.{has}): build \
                     it on an older system, or for x86_64-unknown-linux-musl, and package it again."
                );
            }
            (format!("{image}:nonroot"), why)
        }
        Linking::Glibc { .. } | Linking::Other { .. } => (
            "docker.io/library/alpine:3".into(),
            format!("The program is {linking}; check that the image has them."),
        ),
    }
}

fn containerfile(name: &str, linking: &Linking) -> String {
    let (image, why) = base(linking);
    format!(
        "# {name} over HTTP. Build with: podman build -t {tag} .
# {why}
FROM {image}
COPY {PROGRAM} /{PROGRAM}
COPY {MODEL} /{MODEL}
# Nobody in particular; nothing is written, so the root may be read-only.
USER 65532:65532
EXPOSE 8080
# Drains: requests under way are answered.
STOPSIGNAL SIGTERM
# Inside a container the loopback is nobody's: the port that is published decides who may ask.
ENTRYPOINT [\"/{PROGRAM}\", \"/{MODEL}\", \"--addr\", \"0.0.0.0:8080\"]
",
        tag = slug(name),
    )
}

fn readme(name: &str, slug: &str, unit: &str, linking: &Linking) -> String {
    format!(
        "# {name}

A server that labels pictures: the program `{PROGRAM}` ({linking}), the bundle `{MODEL}/` (see its `MODEL_CARD.md`), and
what runs both. It answers on port 8080:

```sh
curl --data-binary @picture.jpg -H 'content-type: image/jpeg' http://127.0.0.1:8080/v1/classify
```

## By hand

```sh
./{PROGRAM} {MODEL} --addr 127.0.0.1:8080      # Ctrl-C or SIGTERM drains and ends it; --help shows its options
```

## As a service (systemd)

```sh
sudo install -d /opt/{slug}
sudo cp -r {PROGRAM} {MODEL} README.md /opt/{slug}/
sudo cp {unit} /etc/systemd/system/
sudo systemctl daemon-reload
sudo systemctl enable --now {unit}
```

The unit runs as a user that exists only meanwhile, writes nowhere, and listens on the loopback alone. Before it listens
elsewhere, give it keys and TLS (`{PROGRAM} --help`), or a proxy in front.

## As a container

```sh
podman build -t {slug} .        # or docker build -f Containerfile -t {slug} .
podman run --rm --read-only --cap-drop=all -p 127.0.0.1:8080:8080 {slug}
```

## Another version of the model

Replace `{MODEL}/` by a newer bundle as a whole, and restart. `distill verify {MODEL}` checks what is there: hashes,
metadata, and what the network answers.
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_follows_from_what_the_program_needs() {
        let glibc = |minor| containerfile("pets", &Linking::Glibc { major: 2, minor });
        assert!(containerfile("pets", &Linking::Static).contains("\nFROM scratch\n"));
        assert!(glibc(17).contains("\nFROM gcr.io/distroless/cc-debian12:nonroot\n"));
        assert!(glibc(41).contains("\nFROM gcr.io/distroless/cc-debian13:nonroot\n"));
        assert!(glibc(99).contains("build it on an older system"), "{}", glibc(99));
        let musl = Linking::Other { loader: "/lib/ld-musl-x86_64.so.1".into() };
        assert!(containerfile("pets", &musl).contains("ld-musl-x86_64"));
    }

    #[test]
    fn names_that_mean_something_to_systemd_are_made_plain() {
        let texts = of("CIFAR10.3@250+1", &Linking::Static);
        assert_eq!(texts[0].0, "distill-cifar10.3-250-1.service");
        assert!(
            texts[0].1.contains("ExecStart=/opt/cifar10.3-250-1/distill-serve /opt/cifar10.3-250-1/model")
        );
        assert!(!texts[0].1.contains('%'), "systemd expands it");
    }
}
