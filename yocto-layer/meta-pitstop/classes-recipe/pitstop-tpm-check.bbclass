# Device keys live in a TPM. An image without one is for the laboratory and is built only by who says so.

PITSTOP_INSECURE_FILE_KEYS ?= "0"

# nooelint: oelint.task.noanonpython - only at parse time can a recipe be skipped with a reason
python () {
    layers = (d.getVar('BBFILE_COLLECTIONS') or '').split()
    if 'tpm-layer' not in layers and d.getVar('PITSTOP_INSECURE_FILE_KEYS') != '1':
        raise bb.parse.SkipRecipe('device keys need a TPM: add meta-security/meta-tpm, or set PITSTOP_INSECURE_FILE_KEYS = "1" for a laboratory image')
}
