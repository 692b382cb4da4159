// SPDX-License-Identifier: Apache-2.0

// Package evidence is the command "constellation evidence": collect evidence on a
// machine with a TPM, and judge it elsewhere, by files that anybody may carry.
package evidence

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/evidencejson"
	"github.com/constellation-os/constellation/cli/command"
)

// Command makes "evidence" with its subcommands.
func Command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "evidence",
		Short: "Collect evidence on a machine, and judge it by a policy",
		Long: `evidence proves to somebody elsewhere what a machine has booted, without a connection
between the two: files go to and fro, by whatever way there is.

  verifier                               machine with a TPM
  1  makes a nonce             ──────▶
                               ◀──────   2  evidence collect
  3  evidence challenge        ──────▶
                               ◀──────   4  evidence respond
  5  evidence verify

Steps 3 and 4 show that the key which signed the evidence is in the TPM which the
policy trusts. Without them the verdict is a refusal, whatever the evidence says.

The nonce shows that the evidence is not older than it: 32 random bytes, new each
time. Neither it nor any file is a secret but the one that step 3 keeps.`,
		Example: `  nonce=$(openssl rand -hex 32)
  constellation evidence collect --nonce $nonce > evidence.json                     # on the machine
  constellation evidence challenge evidence.json --nonce $nonce --secret secret.json > challenge
  constellation evidence respond challenge --nonce $nonce > response                # on the machine
  constellation evidence verify evidence.json --policy policy.json --nonce $nonce \
      --secret secret.json --response response`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(collectCommand(), challengeCommand(), respondCommand(), verifyCommand())
	return cmd
}

// nonceFlag adds --nonce; the binding is that of what was given.
func nonceFlag(cmd *cobra.Command) func() (attestation.Binding, error) {
	text := cmd.Flags().String("nonce", "", "the verifier's nonce: 32 to 64 bytes in hexadecimal or base64")
	cmd.MarkFlagRequired("nonce")
	return func() (attestation.Binding, error) {
		nonce, err := attestation.ParseNonce(*text)
		if err != nil {
			return attestation.Binding{}, fmt.Errorf("--nonce: %w\nmake one with: openssl rand -hex 32", err)
		}
		return attestation.NonceBinding(nonce)
	}
}

func outFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("out", "-", "file to write, which must not exist; - is standard output")
}

// maxLineSize bounds the files of challenges and responses.
const maxLineSize = 2 * attestation.MaxChallengeSize

// formatLine makes the content of such a file: base64 on one line, which can also
// be pasted into a terminal.
func formatLine(data []byte) []byte {
	return append(base64.StdEncoding.AppendEncode(nil, data), '\n')
}

func parseLine(line []byte) ([]byte, error) {
	data, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSpace(string(line)))
	if err != nil {
		return nil, attestation.Refuse(attestation.ReasonMalformed, "it is not one line of base64")
	}
	if len(data) > attestation.MaxChallengeSize {
		return nil, attestation.Refuse(attestation.ReasonTooLarge, "it has %d bytes, at most %d", len(data), attestation.MaxChallengeSize)
	}
	return data, nil
}

// readBrought reads what a machine brings. It tells a file that cannot be read, an
// error, from one of no size that the machine may bring, a refusal.
func readBrought(cmd *cobra.Command, path string, limit int64) (data []byte, refusal, err error) {
	data, err = command.ReadInput(cmd, path, limit)
	var tooLarge *command.LimitError
	switch {
	case errors.As(err, &tooLarge):
		return nil, attestation.Refuse(attestation.ReasonTooLarge, "%w", err), nil
	case errors.Is(err, command.ErrEmpty):
		return nil, attestation.Refuse(attestation.ReasonMalformed, "%w", err), nil
	}
	return data, nil, err
}

// readEvidence tells a file that cannot be read, an error, from what is in it, a refusal.
func readEvidence(cmd *cobra.Command, path string) (e *attestation.Evidence, refusal, err error) {
	data, refusal, err := readBrought(cmd, path, evidencejson.MaxSize)
	if refusal != nil || err != nil {
		return nil, refusal, err
	}
	e, refusal = evidencejson.Parse(data)
	return e, refusal, nil
}
