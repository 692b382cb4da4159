// SPDX-License-Identifier: Apache-2.0

package evidence

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
	"github.com/spf13/cobra"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/evidencejson"
	"github.com/constellation-os/constellation/attestation/tpm"
	"github.com/constellation-os/constellation/cli/command"
)

// Where Linux has the TPM, shared through the kernel's resource manager, and the
// firmware's event log.
const (
	defaultDevice   = "/dev/tpmrm0"
	defaultEventLog = "/sys/kernel/security/tpm0/binary_bios_measurements"
)

const maxCertificatesSize = 64 << 10

func deviceFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("device", defaultDevice, "the TPM: a device, or the Unix socket of an swtpm")
}

func collectCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "collect --nonce NONCE",
		Short: "Collect evidence about this machine",
		Long: `collect lets this machine's TPM sign the registers PCR 0 to 15 together with the
verifier's nonce, and writes that, the firmware's event log and the TPM's endorsement
certificate as JSON. It changes nothing on the machine, and works as root or as who
may use the TPM and read the log.

The identity of the TPM is printed too, as the inventory of a policy lists it. Believe
that only as far as you believe this machine.`,
		Example: `  constellation evidence collect --nonce $nonce > evidence.json
  constellation evidence collect --nonce $nonce --device swtpm.sock --event-log log.bin --out evidence.json`,
		Args: cobra.NoArgs,
	}
	binding, device, out := nonceFlag(cmd), deviceFlag(cmd), outFlag(cmd)
	log := cmd.Flags().String("event-log", defaultEventLog, "the firmware's event log")
	intermediates := cmd.Flags().StringArray("intermediate", nil, "certificate in PEM between the TPM's own and an authority that verifiers know; can be repeated")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		b, err := binding()
		if err != nil {
			return err
		}
		options := tpm.IssuerOptions{EventLog: func() ([]byte, error) { return readEventLog(*log) }}
		for _, path := range *intermediates {
			der, err := readCertificate(cmd, path)
			if err != nil {
				return err
			}
			options.Intermediates = append(options.Intermediates, der)
		}
		e, err := withIssuer(cmd.Context(), *device, options, func(i *tpm.Issuer) (*attestation.Evidence, error) {
			return i.Issue(cmd.Context(), b)
		})
		if err != nil {
			return err
		}
		data, err := evidencejson.Marshal(e)
		if err != nil {
			return err
		}
		if id, err := tpm.Subject(e); err == nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "this TPM's identity: %s\n", id.Value)
		}
		return command.WriteNew(cmd, *out, data, 0o644)
	}
	return cmd
}

func respondCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "respond CHALLENGE --nonce NONCE",
		Short: "Answer a verifier's challenge to evidence of this machine",
		Long: `respond lets this machine's TPM decrypt the verifier's challenge, which it can if it
holds both the endorsement key and the key that signed the evidence, and writes the
answer: not what was decrypted, but a proof of knowing it, for this nonce only.`,
		Example: `  constellation evidence respond challenge --nonce $nonce > response`,
		Args:    cobra.ExactArgs(1),
	}
	binding, device, out := nonceFlag(cmd), deviceFlag(cmd), outFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		b, err := binding()
		if err != nil {
			return err
		}
		line, err := command.ReadInput(cmd, args[0], maxLineSize)
		if err != nil {
			return err
		}
		challenge, err := parseLine(line)
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		noLog := tpm.IssuerOptions{EventLog: func() ([]byte, error) { return nil, errors.New("not needed") }}
		answer, err := withIssuer(cmd.Context(), *device, noLog, func(i *tpm.Issuer) ([]byte, error) {
			answer, err := i.Respond(cmd.Context(), b, challenge)
			if rc := tpm2.TPMRC(0); errors.As(err, &rc) {
				return nil, fmt.Errorf("this TPM cannot decrypt the challenge: was it made for evidence of this machine?\n%w", err)
			}
			return answer, err
		})
		if err != nil {
			return err
		}
		return command.WriteNew(cmd, *out, formatLine(answer), 0o644)
	}
	return cmd
}

// tpmPatience is how long a TPM has, once the command was interrupted, to finish what it
// does and to be left clean.
const tpmPatience = 2 * time.Second

// withIssuer runs f with the machine's TPM, and leaves nothing loaded in it unless that
// is silent when the command is interrupted.
func withIssuer[T any](ctx context.Context, device string, o tpm.IssuerOptions, f func(*tpm.Issuer) (T, error)) (T, error) {
	return command.Interruptible(ctx, tpmPatience, func() (out T, err error) {
		t, err := openTPM(command.FromCaller(device))
		if err != nil {
			return out, fmt.Errorf("open the TPM: %w\nname another device, or the socket of an swtpm, with --device", err)
		}
		defer t.Close()
		i, err := tpm.NewIssuer(t, o)
		if errors.Is(err, tpm2.TPMRCObjectMemory) {
			return out, fmt.Errorf("%w\nothers have left keys in this TPM: name the kernel's resource manager (%s) with --device, or flush them (tpm2_flushcontext --transient-object)", err, defaultDevice)
		}
		if err != nil {
			return out, err
		}
		out, err = f(i)
		return out, errors.Join(err, i.Close())
	})
}

func openTPM(path string) (transport.TPMCloser, error) {
	info, err := os.Stat(path)
	if err == nil && info.Mode()&os.ModeSocket != 0 {
		return linuxudstpm.Open(path)
	}
	return linuxtpm.Open(path)
}

// readEventLog reads at most as much as evidence can hold: sysfs does not tell the
// size beforehand.
func readEventLog(path string) ([]byte, error) {
	f, err := os.Open(command.FromCaller(path))
	if err != nil {
		return nil, fmt.Errorf("%w\nname the log with --event-log", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, attestation.MaxEvidenceSize+1))
	if err == nil && len(data) > attestation.MaxEvidenceSize {
		return nil, fmt.Errorf("%s: more than %d bytes", path, attestation.MaxEvidenceSize)
	}
	return data, err
}

func readCertificate(cmd *cobra.Command, path string) ([]byte, error) {
	data, err := command.ReadInput(cmd, path, maxCertificatesSize)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%s: no certificate in PEM", path)
	}
	return block.Bytes, nil
}
