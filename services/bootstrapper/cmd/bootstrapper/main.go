// SPDX-License-Identifier: Apache-2.0

// Command bootstrapper is the first service of a node. It only wires: the machine's
// TPM to the attested channel, the channel to the service.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"

	"github.com/constellation-os/constellation/attestation/atls"
	"github.com/constellation-os/constellation/attestation/tpm"
	"github.com/constellation-os/constellation/services/bootstrapper"
)

// Where Linux has what the service reads.
const (
	tpmDevice = "/dev/tpmrm0"
	eventLog  = "/sys/kernel/security/tpm0/binary_bios_measurements"
	osRelease = "/usr/lib/os-release"
)

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
	release, err := os.ReadFile(osRelease)
	if err != nil {
		return fmt.Errorf("read which image this is: %w", err)
	}
	image, err := bootstrapper.ParseOSRelease(release)
	if err != nil {
		return err
	}
	device, err := linuxtpm.Open(tpmDevice)
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("this machine has no TPM 2.0: it can prove to nobody what it booted, and joins no cluster")
	}
	if err != nil {
		return fmt.Errorf("open the TPM: %w", err)
	}
	defer device.Close()
	issuer, err := tpm.NewIssuer(device, tpm.IssuerOptions{EventLog: func() ([]byte, error) { return os.ReadFile(eventLog) }})
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
	if _, err := daemon.SdNotify(true, daemon.SdNotifyReady+"\nSTATUS=Waiting on port "+strconv.Itoa(bootstrapper.Port)); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	fmt.Printf("Waiting for the owner on port %d\n", bootstrapper.Port)
	return bootstrapper.New(image).Serve(ctx, listener, channel)
}

// observe logs handshakes that failed: gRPC keeps their reasons to itself.
func observe(log *slog.Logger, o atls.Outcome) {
	if o.Err != nil {
		log.Warn("a peer was not served", "peer", o.Remote.String(), "reason", o.Err.Error())
	}
}
