# With meta-tpm the keys are the TPM's, unless a laboratory image is asked for.
PACKAGECONFIG:append = " ${@'' if d.getVar('PITSTOP_INSECURE_FILE_KEYS') == '1' else 'tpm'}"
