// SPDX-License-Identifier: Apache-2.0

// Command verificationservice proves what this node booted to whoever asks. It only
// wires: the node's TPM and event log to the service. It opens them as root, and
// answers strangers as somebody who may do nothing.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/tpm"
	api "github.com/constellation-os/constellation/services/api/verificationservice"
	"github.com/constellation-os/constellation/services/verificationservice"
)

// options are the command's flags.
type options struct {
	addresses        verificationservice.Addresses
	device, eventLog string
	user             int
}

func main() {
	var o options
	flag.StringVar(&o.addresses.GRPC, "grpc", fmt.Sprintf(":%d", api.Port), "address of the service by gRPC")
	flag.StringVar(&o.addresses.HTTP, "http", fmt.Sprintf(":%d", api.HTTPPort), "address of the service by HTTP")
	flag.StringVar(&o.addresses.Admin, "admin", "127.0.0.1:9448", "address of health and metrics")
	flag.StringVar(&o.device, "device", "/dev/tpmrm0", "the TPM: a device, or the Unix socket of an swtpm")
	flag.StringVar(&o.eventLog, "event-log", "/sys/kernel/security/tpm0/binary_bios_measurements", "the firmware's event log")
	flag.IntVar(&o.user, "user", 65532, "user and group to become before anybody is answered, if started as root; 0 is to stay root")
	flag.Parse()
	logger := slog.New(slog.NewJSONHandler(os.Stdout, nil))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o, logger)
	stop()
	if err != nil {
		logger.Error("verificationservice failed", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options, logger *slog.Logger) error {
	device, err := openTPM(o.device)
	if err != nil {
		return fmt.Errorf("open the TPM: %w", err)
	}
	defer device.Close()
	log, err := readBounded(o.eventLog) // the firmware's, which has ended
	if err != nil {
		return fmt.Errorf("read the event log: %w", err)
	}
	issuer, err := tpm.NewIssuer(device, tpm.IssuerOptions{EventLog: func() ([]byte, error) { return log, nil }})
	if err != nil {
		return err
	}
	defer issuer.Close()
	if err := become(o.user); err != nil {
		return fmt.Errorf("become user %d: %w", o.user, err)
	}
	service, err := verificationservice.Listen(o.addresses, issuer, verificationservice.DefaultLimits(), logger)
	if err != nil {
		return err
	}
	a := service.Addresses()
	logger.Info("verificationservice listens", "grpc", a.GRPC, "http", a.HTTP, "admin", a.Admin)
	return service.Serve(ctx)
}

// become leaves root for good, and with it every capability (capabilities(7)); what is
// open stays open.
func become(id int) error {
	if id == 0 || os.Getuid() != 0 {
		return nil
	}
	return errors.Join(syscall.Setgroups(nil), syscall.Setgid(id), syscall.Setuid(id))
}

func openTPM(path string) (transport.TPMCloser, error) {
	info, err := os.Stat(path)
	if err == nil && info.Mode()&os.ModeSocket != 0 {
		return linuxudstpm.Open(path)
	}
	return linuxtpm.Open(path)
}

// readBounded reads at most as much as evidence can hold: securityfs does not tell the
// size beforehand.
func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, attestation.MaxEvidenceSize+1))
	if err == nil && len(data) > attestation.MaxEvidenceSize {
		err = fmt.Errorf("%s: more than %d bytes", path, attestation.MaxEvidenceSize)
	}
	return data, err
}
