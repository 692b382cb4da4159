// SPDX-License-Identifier: Apache-2.0

// Command bootstrapper is the first service of a node. It only wires: the machine's
// TPM to the attested channel, the channel to the service, the service to the steps and
// those to the machine.
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"

	"github.com/constellation-os/constellation/attestation/atls"
	"github.com/constellation-os/constellation/attestation/tpm"
	"github.com/constellation-os/constellation/kubernetes/componentset"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
	"github.com/constellation-os/constellation/services/bootstrapper"
	"github.com/constellation-os/constellation/services/bootstrapper/journal"
	"github.com/constellation-os/constellation/services/bootstrapper/node"
	"github.com/constellation-os/constellation/services/diskmapper/client"
	"github.com/constellation-os/constellation/services/keyservice/hardening"
	"github.com/constellation-os/constellation/services/provider"
	"github.com/constellation-os/constellation/services/provider/qemu"
)

// Where Linux has what the service reads.
const (
	tpmDevice    = "/dev/tpmrm0"
	eventLog     = "/sys/kernel/security/tpm0/binary_bios_measurements"
	osRelease    = "/usr/lib/os-release"
	servicesFile = "/usr/lib/constellation/services.txt" // digests of our own
	root         = "/"
)

// Where the node's journal is: until a reboot, and on the state disk.
const (
	bootJournal = "/run/constellation/bootstrapper/journal.json"
	stateFolder = "/var/lib"
	diskJournal = stateFolder + "/constellation/journal.json"
)

// The end of the node's journal that comes with an error.
const (
	maxLogs    = 64 << 10
	maxPodLogs = 16 << 10 // of these, those of the control plane's containers
	logsTime   = time.Minute
)

// providers are what the flavours of the image run on.
var providers = map[string]func() provider.Provider{
	"qemu":       func() provider.Provider { return qemu.New() },
	"qemu-debug": func() provider.Provider { return qemu.New() },
}

// kubernetes are Kubernetes' files on this machine.
var kubernetes = &node.Kubernetes{Root: root, Now: time.Now}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "bootstrapper: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, log *slog.Logger) error {
	// The master secret passes through here.
	if err := hardening.NoDumps(); err != nil {
		return err
	}
	release, err := os.ReadFile(osRelease)
	if err != nil {
		return fmt.Errorf("read which image this is: %w", err)
	}
	image, err := bootstrapper.ParseOSRelease(release)
	if err != nil {
		return err
	}
	surroundings, ok := providers[image.Flavour]
	if !ok {
		return fmt.Errorf("the flavour %q of the image is unknown", image.Flavour)
	}
	chip, err := linuxtpm.Open(tpmDevice)
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("this machine has no TPM 2.0: it can prove to nobody what it booted, and joins no cluster")
	}
	if err != nil {
		return fmt.Errorf("open the TPM: %w", err)
	}
	defer chip.Close()
	issuer, err := tpm.NewIssuer(chip, tpm.IssuerOptions{EventLog: func() ([]byte, error) { return os.ReadFile(eventLog) }})
	if err != nil {
		return err
	}
	defer issuer.Close()
	channel, err := atls.ServerProve(issuer, atls.Options{Observe: func(o atls.Outcome) { observe(log, o) }})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", ":"+strconv.Itoa(bootstrapper.Port))
	if err != nil {
		return err
	}
	j, err := journal.Open(journal.File(bootJournal), journal.File(diskJournal), func() error { return node.Sync(stateFolder) })
	if err != nil {
		return err
	}
	mapper, err := client.Dial(client.Socket)
	if err != nil {
		return err
	}
	defer mapper.Close()
	device, err := issuer.Identity()
	if err != nil {
		return err
	}
	pins, err := readPins()
	if err != nil {
		return err
	}
	around := surroundings()
	m := &machine{around: around, device: device, pins: pins, journal: j, mapper: mapper, units: &node.Systemd{Systemctl: "/usr/bin/systemctl", Journalctl: "/usr/bin/journalctl"}}
	server := service(ctx, image, m)
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady+"\nSTATUS=Waiting on port "+strconv.Itoa(bootstrapper.Port)); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	fmt.Printf("Waiting for the owner on port %d\n", bootstrapper.Port)
	go watch(ctx, server)
	go duties(ctx, j, log)
	go func() {
		m.hint(ctx, server)
		joiner(server, m, issuer).Run(ctx)
	}()
	return server.Serve(ctx, listener, channel)
}

// service makes the service.
func service(ctx context.Context, image bootstrapper.Image, m *machine) *bootstrapper.Server {
	return bootstrapper.New(ctx, bootstrapper.Options{
		Image: image,
		Owner: func(ctx context.Context) (*[sha256.Size]byte, error) {
			self, err := m.around.Self(ctx)
			return self.InitSecretHash, err
		},
		Journal: m.journal,
		Check:   func(r *bootstrapper.Request) error { return check(r, m.pins, node.Address) },
		Steps:   m.founding, Recovery: m.recovery, Disk: m.look,
		Kubeconfig: kubernetes.Admin, Logs: logs(m.units),
		Say: func(line string) { fmt.Println(line) },
	})
}

// watch tells systemd, if it wants to know, that the service lives: that it can still
// say what its status is.
func watch(ctx context.Context, s *bootstrapper.Server) {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil || interval == 0 {
		return
	}
	ticker := time.NewTicker(interval / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if status, err := s.Status(ctx, &api.StatusRequest{}); err == nil {
				_, _ = daemon.SdNotify(false, daemon.SdNotifyWatchdog+"\nSTATUS="+oneLine(status.GetMessage()))
			}
		}
	}
}

// readPins reads the digests of the services that the image was built with.
func readPins() (componentset.Pins, error) {
	data, err := os.ReadFile(servicesFile)
	if err != nil {
		return nil, fmt.Errorf("read which services the image was built with: %w", err)
	}
	return componentset.ParsePins(data)
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// observe logs handshakes that failed: gRPC keeps their reasons to itself.
func observe(log *slog.Logger, o atls.Outcome) {
	if o.Err != nil {
		log.Warn("a peer was not served", "peer", o.Remote.String(), "reason", o.Err.Error())
	}
}
