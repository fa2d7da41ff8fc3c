"""Words of captions, sorted by what they tell. English; data, no code.

Terms are matched as whole words, lower case, plural -s allowed; those of several words win over
their parts.
"""

from __future__ import annotations

from collections.abc import Mapping


def _terms(text: str) -> frozenset[str]:
    return frozenset(term.strip() for line in text.splitlines() for term in line.split(",")) - {""}


ASPECTS: Mapping[str, frozenset[str]] = {
    "genre": _terms("""
        acid, afrobeat, ambient, americana, baroque, bachata, ballad, bebop, big band, bluegrass,
        blues, bolero, boogie, boom bap, bossa nova, bossa, breakbeat, calypso, celtic, chamber,
        chanson, chant, chillout, chillwave, chiptune, choral, classical, country, cumbia, dance,
        dancehall, dark ambient, deep house, disco, downtempo, drill, drone, drum and bass, dub,
        dubstep, edm, electro, electronic, electronica, emo, ethnic, eurodance, fado, flamenco,
        folk, funk, fusion, garage, glitch, gospel, grime, grunge, hard rock, hardcore, hardstyle,
        hip hop, hip-hop, house, idm, indie, industrial, jazz, jungle, klezmer, krautrock, latin,
        lo-fi, lofi, lullaby, madrigal, mambo, march, mariachi, metal, minimal, minimalist, motown,
        musical, neoclassical, new age, new wave, noise, opera, orchestral, phonk, polka, pop,
        post-rock, progressive, psychedelic, punk, r&b, ragtime, rap, reggae, reggaeton, requiem,
        rhythm and blues, rock, rockabilly, romantic, rumba, salsa, samba, shoegaze, singer-songwriter,
        ska, son, sonata, soul, soundtrack, surf, swing, symphony, synthpop, synthwave, tango,
        techno, trance, trap, trip hop, trip-hop, vaporwave, waltz, world, zouk, cinematic,
        soundscape, speech, podcast, narration, audiobook"""),
    "instrument": _terms("""
        accordion, acoustic guitar, balafon, bagpipe, balalaika, bandoneon, banjo, bass, bassline,
        bassoon, bell, bells, bodhran, bongo, bouzouki, brass, bugle, castanets, celesta, cello,
        charango, chime, choir, chorus, clap, clarinet, claves, clavichord, clavinet, conga,
        contrabass, cor anglais, cornet, cowbell, cymbal, didgeridoo, djembe, double bass,
        drum, drum kit, drum machine, dulcimer, electric guitar, electric piano, erhu, euphonium,
        fiddle, flugelhorn, flute, french horn, glass harmonica, glockenspiel, gong, guitar, guzheng,
        hammond, handclap, handpan, harmonica, harmonium, harp, harpsichord, hi-hat, hihat, horn,
        hurdy-gurdy, kalimba, keyboard, kick, kora, koto, lap steel, lute, lyre, mandolin, maracas,
        marimba, mbira, mellotron, melodica, moog, nylon guitar, oboe, ocarina, oud, pan flute,
        organ, orchestra, pad, pedal steel, percussion, piano, piccolo, pipa, quartet, rebab,
        recorder, rhodes, sampler, santur, sarod, sax, saxophone, shaker, shakuhachi, shamisen,
        sitar, slide guitar, snare, steel drum, steel drums, steel pan, steelpan, string, string quartet,
        synth, synth bass, synthesizer, synthesiser, tabla, taiko, talkbox, tambourine, theremin,
        timpani, toms, triangle, trio, trombone, trumpet, tuba, turntable, ukulele, vibraphone,
        vibes, viola, violin, vocoder, whistle, woodblock, woodwind, wurlitzer, xylophone, zither,
        808, 909, 303, arpeggiator, lead"""),
    "voice": _terms("""
        a cappella, acapella, alto, announcer, baritone, child voice, crooner, falsetto, female,
        female vocals, female voice, growl, humming, instrumental, male, male vocals, male voice,
        mezzo, narrator, rapper, rapping, reader, scat, scream, shout, sing, singer, singing,
        soprano, speaker, speaking, spoken word, tenor, vocal, vocals, voice, voices, whisper,
        whispering, woman, man, yodel, accent"""),
    "mood": _terms("""
        aggressive, airy, angry, anthemic, anxious, bittersweet, bleak, blissful, bouncy, bright,
        brooding, calm, carefree, cheerful, chill, cold, cool, cosy, cozy, dark, delicate, dramatic,
        dreamy, driving, eerie, elegant, emotional, energetic, epic, ethereal, euphoric, exciting,
        festive, fierce, floating, fun, funky, gentle, gloomy, graceful, groovy, happy, haunting,
        heavy, heroic, hopeful, humorous, hypnotic, inspiring, intense, intimate, introspective,
        joyful, laid-back, lively, lonely, lush, majestic, meditative, melancholic, melancholy,
        mellow, menacing, mournful, mysterious, mystical, nervous, nocturnal, nostalgic, ominous,
        optimistic, passionate, pastoral, peaceful, playful, powerful, quirky, reflective, relaxed,
        relaxing, restless, romantic, sad, sensual, serene, sinister, smooth, solemn, soothing,
        sombre, somber, soulful, spiritual, spooky, suspenseful, tender, tense, tranquil,
        triumphant, upbeat, uplifting, warm, whimsical, wild, wistful, yearning"""),
    "tempo": _terms("""
        bpm, slow, fast, moderate, mid-tempo, midtempo, up-tempo, uptempo, downtempo, adagio,
        allegro, andante, largo, lento, moderato, presto, vivace, quick, brisk, rubato, half-time,
        double-time, slow-paced, fast-paced, 4/4, 3/4, 6/8, 5/4, 7/8, 12/8, swung, shuffle"""),
    "key": _terms(
        "major, minor, dorian, phrygian, lydian, mixolydian, aeolian, pentatonic, atonal"
    ),
    "production": _terms("""
        analog, analogue, anthem, arpeggio, breakdown, breathy, chord, chords, chord progression,
        chorus effect, clean, close-miked, compressed, counterpoint, crackle, crescendo, crisp,
        delay, demo, digital, distorted, distortion, drop, dry, echo, fade, feedback, field
        recording, fingerpicked, fingerstyle, flanger, four-on-the-floor, fuzz, gated, granular,
        gritty, groove, harmonies, harmony, hi-fi, hiss, home recording, improvisation, improvised,
        intro, layered, legato, live, live recording, loop, looped, low-pass, melody, mono, muffled,
        muted, off-beat, ostinato, outro, overdrive, overdriven, palm-muted, percussive, phaser,
        picked, pitched, pizzicato, polyphonic, polyrhythm, punchy, raw, reverb, reverberant, riff,
        room, sample, sampled, saturated, sidechain, slap, solo, sparse, staccato, stereo, strummed,
        strumming, studio, sub-bass, sustained, syncopated, tape, tremolo, unison, verse, vibrato,
        vintage, vinyl, wah, walking bass, wet, wide"""),
}
"""What a caption can tell, and the words that tell it."""

GENERIC = _terms("""
    audio, beautiful, clip, composition, file, good, great, instrumentation, interesting, mix,
    music, musical piece, new, nice, number, part, perfect, piece, play, played, playing, plays,
    recording, recorded, section, song, sound, sounds, sounding, style, take, thing, track, tune,
    untitled, various, very, version, wav, mp3, flac, master, final, amazing, awesome, cool stuff,
    feature, features, featuring, featured""")
"""Words that any recording could be called."""

STOP = _terms("""
    a, about, across, after, all, along, also, an, and, another, any, are, around, as, at, be,
    been, before, between, both, but, by, can, down, during, each, few, for, from, full, has, have,
    her, his, in, into, is, it, its, like, little, more, most, much, no, not, of, off, on, one, or,
    other, our, out, over, own, set, so, some, such, than, that, the, their, them, then, there,
    these, they, this, through, to, too, two, under, up, us, was, we, well, were, which, while,
    who, with, within, without, you, your, backed, i, my""")
"""Words that hold a sentence together."""
